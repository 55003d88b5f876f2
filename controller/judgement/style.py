"""The style sheet of `page`, light and dark, and the policy that lets nothing else in."""

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

STYLE = """
:root { color-scheme: light dark; --fg: #1b1f24; --bg: #fff; --soft: #f3f4f6; --line: #d0d7de;
  --good: #1a7f37; --bad: #cf222e; --mid: #9a6700; --a: #0969da; --b: #8250df }
@media (prefers-color-scheme: dark) {
  :root { --fg: #e6edf3; --bg: #0d1117; --soft: #161b22; --line: #30363d;
    --good: #3fb950; --bad: #f85149; --mid: #d29922; --a: #58a6ff; --b: #bc8cff }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--fg); background: var(--bg); max-width: 64rem; margin: 2rem auto;
  padding: 0 1rem }
h1 { font-size: 1.5rem; overflow-wrap: anywhere }
h2 { font-size: 1.15rem; margin-top: 2rem }
table { border-collapse: collapse; width: 100%; font-size: .9rem }
th, td { padding: .35rem .5rem; border-bottom: 1px solid var(--line); text-align: right }
th:first-child, td:first-child, td:last-child { text-align: left }
.scroll { overflow-x: auto }
.word { border: 2px solid; border-radius: .5rem; padding: .1rem .6rem }
.deploy { color: var(--good) }
.reject { color: var(--bad) }
.deploy_canary, .needs_review, .not_enough_data { color: var(--mid) }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--soft); padding: .6rem; border-radius: .4rem;
  margin: .3rem 0; max-height: 30rem; overflow: auto }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem }
@media (max-width: 45rem) { .pair { grid-template-columns: 1fr } }
details { border: 1px solid var(--line); border-radius: .4rem; padding: .4rem .7rem; margin: .4rem 0 }
summary { cursor: pointer; overflow-wrap: anywhere }
small { opacity: .8 }
svg { width: 100%; height: auto; font-size: 13px }
svg text { fill: var(--fg) }
svg .axis { font-size: 11px; opacity: .75 }
svg line { stroke: var(--fg); stroke-width: 1 }
svg .span { stroke-width: 3; opacity: .55 }
svg .limit { stroke-dasharray: 4 3; opacity: .6 }
svg .zero { opacity: .5 }
svg circle { fill: var(--fg) }
svg .better, svg .within { fill: var(--good) }
svg .worse, svg .beyond { fill: var(--bad) }
svg .g0 { fill: var(--a) } svg .g1 { fill: var(--b) } svg .g2 { fill: var(--good) }
svg .g3 { fill: var(--mid) } svg .g4 { fill: var(--bad) } svg .g5 { fill: var(--fg) }
svg polyline { fill: none; stroke-width: 2 }
svg .candidate { stroke: var(--a); stroke-width: 2 }
svg .baseline { stroke: var(--b); stroke-width: 2; stroke-dasharray: 6 3 }
"""
