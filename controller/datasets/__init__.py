"""Rows for training and evaluation: what form they have, whether they are fit to pay for, and which split each belongs to.

Flow: `rows` recognises and normalises, `validate` reports (with `sensitive` for what must not be trained on), `split` divides.
All pure over rows that somebody else has read; nothing here opens a file or a data set. It is a package of its own because bad
data is cheapest to find before anything is paid, and because the same rules serve a plan, a command and a wizard.
"""
