"""The child process of an evaluation: asks both sides, scores and judges the answers, finds the verdict.

Flow: `__main__` (claim, signals) -> `run` (the whole of it) -> `questions` (rows to questions) -> `asking` (calls within money and
stop signs) -> `checking` and `judging` (an answer to scores, a pair to an opinion) -> `result` (verdict and bounded report) ->
`experiments` (LangSmith). It is a process of its own because it takes minutes and the controller must not: passes go on, and a
controller that dies takes no paid answer with it. It stands above the clients and below the front ends; kinds never import it.
"""
