"""The page's look: one style sheet, no font, script or image from elsewhere."""

from __future__ import annotations

CSS = """
:root { color-scheme: light dark; --ground: #fff; --panel: #f5f6f8; --ink: #1b1f24;
  --soft: #57606a; --line: #d5d9de; --mark: #0b5cad; --above: #56b4e9; --below: #e69f00; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171b; --panel: #1d2127; --ink: #e6e8eb;
  --soft: #a0a8b2; --line: #363c45; --mark: #7db8f0; --above: #0072b2; --below: #b35900; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem clamp(1rem, 4vw, 3rem) 3rem; max-width: 78rem;
  background: var(--ground); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: .4rem 0 .6rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; padding-top: .9rem;
  border-top: 1px solid var(--line); overflow-wrap: anywhere; }
h2 small { font-weight: 400; color: var(--soft); font-size: .9rem; }
h3 { font-size: 1.02rem; margin: 1.6rem 0 .4rem; }
.summary { background: var(--panel); padding: .2rem 1.1rem .6rem; border-radius: .5rem; }
.summary h2 { border: 0; margin: .6rem 0 .2rem; padding: 0; }
.summary li { margin: .35rem 0; max-width: 90ch; }
.summary ul { padding-left: 1.1rem; margin: .4rem 0; }
p, li { max-width: 70ch; overflow-wrap: anywhere; }
.soft, figcaption { color: var(--soft); font-size: .88rem; }
nav ul { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; }
a { color: var(--mark); }
.wide { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .8rem; text-align: right; vertical-align: top;
  border-bottom: 1px solid var(--line); }
th { font-weight: 600; }
thead th { background: var(--panel); vertical-align: bottom; max-width: 11rem; min-width: 5.5rem; }
tbody th, thead th:first-child { text-align: left; max-width: 20rem; min-width: 10rem;
  overflow-wrap: anywhere; }
tbody th { position: sticky; left: 0; background: var(--ground); }
th .soft { font-weight: 400; font-size: .92em; }
td small { display: block; color: var(--soft); white-space: nowrap; font-weight: 400; }
td.best { font-weight: 700; }
figure { margin: 1rem 0; }
figure .wide svg { display: block; height: auto; max-width: 100%; min-width: var(--least, 34rem); }
details { margin: .6rem 0; }
summary { cursor: pointer; color: var(--mark); }
ul.notes { padding-left: 1.2rem; font-size: .92rem; }
footer { margin-top: 3rem; border-top: 1px solid var(--line); font-size: .88rem;
  color: var(--soft); }
footer h2 { border: 0; margin-top: .5rem; color: var(--ink); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: .2rem 0 1rem; }
dt { overflow-wrap: anywhere; max-width: 16rem; }
dd { margin: 0; overflow-wrap: anywhere;
  font-family: ui-monospace, "DejaVu Sans Mono", monospace; }
@media (max-width: 40rem) { tbody th, thead th:first-child { min-width: 7rem; max-width: 9rem; }
  th, td { padding: .35rem .5rem; } thead th { min-width: 4.6rem; }
  dl { grid-template-columns: 1fr; } dd { margin-bottom: .4rem; } }
@page { size: A4 landscape; margin: 12mm; }
@media print { tbody th { position: static; }
  body { max-width: none; padding: 0; font-size: 12px; } .wide { overflow: visible; }
  figure .wide svg { min-width: 0; max-height: 175mm; } figure, tr, h2, h3 { break-inside: avoid; }
  h2, h3 { break-after: avoid; } table { font-size: 9px; } th, td { padding: .2rem .3rem; }
  thead th, tbody th, thead th:first-child { min-width: 0; max-width: 7rem; }
  td small { white-space: normal; } nav { display: none; } }
"""
