"""The report's style sheet: one column on a phone, several on a desk; light or dark as the reader's system is."""

STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--quiet:#57606a;--line:#d0d7de;--paper:#fff;--panel:#f6f8fa;--bar:#0072b2;--minus:#b3402a}
@media (prefers-color-scheme:dark){:root{--ink:#e6edf3;--quiet:#9aa4af;--line:#30363d;--paper:#0d1117;--panel:#161b22;--bar:#4aa3df;--minus:#e5806b}}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:76em;margin:0 auto;padding:1em}
h1,h2,h3,h4{line-height:1.25;margin:1.6em 0 .5em;overflow-wrap:anywhere}h2{border-top:1px solid var(--line);padding-top:1em}
h4{margin:0 0 .5em;font-size:.95em}p{margin:.3em 0 .8em;color:var(--quiet)}
.panels{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(20em,100%),1fr));gap:1em}
.columns{columns:20em;column-gap:1em}.columns .panel{break-inside:avoid;margin:0 0 1em}
.panel{background:var(--panel);border:1px solid var(--line);border-radius:6px;padding:.8em;margin:0;min-width:0}
.panel svg{display:block;width:100%;height:auto}
svg.layout{max-width:60em;display:block}
ul.legend{list-style:none;padding:0;margin:.3em 0 1em;display:flex;flex-wrap:wrap;gap:.2em 1.2em}
ul.legend li{overflow-wrap:anywhere}ul.legend i{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin-right:.4em}
.bars{display:grid;grid-template-columns:minmax(4em,9em) 1fr max-content;gap:.15em .6em;align-items:center;font-size:.85em}
.bars em{font-style:normal;overflow-wrap:anywhere}.bars i{display:block;height:.8em;background:var(--bar);border-radius:2px;min-width:1px}
.bars i.minus{background:var(--minus)}.bars u{text-decoration:none;text-align:right;font-variant-numeric:tabular-nums}
table{border-collapse:collapse;font-size:.87em;width:100%}td,th{padding:.25em .6em;text-align:right;border-bottom:1px solid var(--line)}
td:first-child,th:first-child{text-align:left;overflow-wrap:anywhere}td{font-variant-numeric:tabular-nums}summary{cursor:pointer;margin:1em 0}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.3em 1em;margin:0}dt{color:var(--quiet)}dd{margin:0;overflow-wrap:anywhere}
@media (max-width:50em){thead{display:none}tr{display:block;border:1px solid var(--line);border-radius:6px;padding:.4em .6em;margin:0 0 .6em}
td{display:flex;justify-content:space-between;gap:1em;border:0;padding:.1em 0}td::before{content:attr(data-head);color:var(--quiet)}
td:first-child{font-weight:600}}
"""
