"""Which of two models is better, from paired answers: pure, below every kind and client.

Flow: `orders` says which call comes when; somebody makes the calls; `evaluators` and `judge` score each answer; `results` pairs
them; `scores` turns raw measures into 0..1; `verdict` decides, with the evidence of `evidence` (from `statistics` and
`bootstrap`) and the doubts of `flags`; `report` and `page` tell it. Nothing here reads a clock, a file or the network; `sandbox`
alone starts a process, and says what that costs.

It is a package of its own because the rule that spends a team's trust must be testable by the thousand, without any model.
"""
