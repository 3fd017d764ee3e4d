"""The style of a page: light and dark, from a phone to a desk."""

_LIGHT = """
  --page: #f6f6f4; --card: #ffffff; --ink: #1b1b1a; --soft: #5d5c58; --grid: #e7e6e2;
  --axis: #b9b7b0; --edge: #e3e2de; --note: #fff6e0; --note-edge: #e5c46a;
  --s0: #2a78d6; --s1: #d9561f; --s2: #14915f; --s3: #b07a00;
  --s4: #c2478c; --s5: #5b4bc4; --s6: #c93736; --s7: #4f6d7a;
"""
_DARK = """
  --page: #121211; --card: #1c1c1b; --ink: #f1f0ec; --soft: #a9a79f; --grid: #2d2d2b;
  --axis: #5b5a55; --edge: #30302d; --note: #2b2616; --note-edge: #6d5a20;
  --s0: #5b9df0; --s1: #ee7c4a; --s2: #2fb583; --s3: #d9a51f;
  --s4: #e47bb2; --s5: #9d92f0; --s6: #ee7372; --s7: #93b0bd;
"""
_REST = """
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; overflow-wrap: anywhere; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 24px 20px 64px; }
h1 { font-size: 25px; line-height: 1.2; margin: 0 0 4px; letter-spacing: -0.01em; }
h2 { font-size: 18px; margin: 0 0 2px; }
h3 { font-size: 14px; margin: 20px 0 6px; }
p { margin: 4px 0 10px; max-width: 78ch; }
.lead, .about, small, figcaption span { color: var(--soft); }
small { font-size: 12px; white-space: nowrap; }
a { color: inherit; text-decoration-color: var(--axis); text-underline-offset: 3px; }
nav { display: flex; flex-wrap: wrap; gap: 4px 14px; margin: 12px 0 18px; font-size: 14px; }
section { background: var(--card); border: 1px solid var(--edge); border-radius: 10px;
  padding: 18px 20px 20px; margin: 0 0 16px; min-width: 0; }
ul.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 8px 0 6px;
  padding: 0; font-size: 13px; }
ul.legend li { display: flex; align-items: center; gap: 7px; min-width: 0;
  overflow-wrap: anywhere; }
.key { flex: none; width: 14px; height: 4px; border-radius: 2px; background: var(--c); }
.key.again { background: repeating-linear-gradient(90deg, var(--c) 0 4px, transparent 4px 6px); }
ul.notes { margin: 10px 0 0; padding: 10px 14px 10px 30px; background: var(--note);
  border: 1px solid var(--note-edge); border-radius: 8px; font-size: 14px;
  overflow-wrap: anywhere; }
.charts { display: grid; gap: 18px 28px; margin: 12px 0 4px; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); }
figure { margin: 0; min-width: 0; max-width: 460px; }
figcaption { font-size: 13px; margin: 0 0 4px; overflow-wrap: anywhere; }
svg { display: block; width: 100%; height: auto; overflow: hidden; }
svg text { font: 11px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
  fill: var(--soft); font-variant-numeric: tabular-nums; }
svg .middle { text-anchor: middle; }
svg .end, svg .row { text-anchor: end; }
svg .row { fill: var(--ink); }
svg text.name { fill: var(--c); font-weight: 600; }
.grid { stroke: var(--grid); }
.axis { stroke: var(--axis); }
.band { fill: var(--grid); opacity: 0.4; }
.leader { stroke: var(--c); stroke-dasharray: 1 3; opacity: 0.7; }
.reference { stroke: var(--soft); stroke-dasharray: 4 3; }
.line { fill: none; stroke: var(--c); stroke-width: 2; stroke-linejoin: round;
  stroke-linecap: round; }
.line.again { stroke-dasharray: 6 3; }
.whisker { stroke: var(--c); stroke-width: 1.5; opacity: 0.65; }
.stem { stroke: var(--c); stroke-width: 2; opacity: 0.45; }
.dot { fill: var(--c); stroke: var(--card); stroke-width: 1; }
.column { fill: var(--c); }
.wide { overflow-x: auto; margin: 8px 0 12px; border: 1px solid var(--edge); border-radius: 8px;
  max-width: 100%; }
table { border-collapse: separate; border-spacing: 0; font-size: 13px; min-width: 100%;
  font-variant-numeric: tabular-nums; }
th, td { padding: 5px 12px; text-align: right; vertical-align: baseline;
  border-bottom: 1px solid var(--grid); }
tbody tr:last-child > * { border-bottom: 0; }
thead th { min-width: 84px; color: var(--soft); font-weight: 600; vertical-align: bottom;
  overflow-wrap: break-word; }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--card);
  font-weight: 500; max-width: 300px; min-width: 130px; overflow-wrap: break-word; }
td { white-space: nowrap; overflow-wrap: normal; }
td.text { white-space: normal; text-align: left; min-width: 120px; max-width: 420px;
  overflow-wrap: anywhere; }
.none { color: var(--axis); }
.best > span { font-weight: 650; }
details { margin: 10px 0 0; }
summary { cursor: pointer; color: var(--soft); font-size: 14px; }
code { font: 12.5px ui-monospace, "DejaVu Sans Mono", Menlo, monospace; overflow-wrap: anywhere; }
@media (max-width: 560px) {
  main { padding: 14px 10px 40px; }
  section { padding: 14px 12px; border-radius: 8px; }
  h1 { font-size: 21px; }
  th, td { padding: 5px 8px; }
  th:first-child { max-width: 140px; min-width: 100px; }
}
@media print {
  body { background: #fff; }
  section { break-inside: avoid; border: 0; padding: 0; }
}
"""


def style_sheet() -> str:
    """Returns the style sheet."""
    colours = "".join(f".s{number} {{ --c: var(--s{number}); }}\n" for number in range(8))
    return (
        f":root {{ color-scheme: light dark; {_LIGHT} }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root {{ {_DARK} }} }}\n"
        f"{_REST}{colours}"
    )
