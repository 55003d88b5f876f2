"""Self-contained programs that Turnout starts elsewhere: in a subprocess, a job, a container. They import nothing of Turnout."""
