"""The styles of the page, and what the served pages need besides. Light and dark, from 320 pixels up."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --ground: #f4f2ee; --card: #fff; --ink: #1c1b19; --faint: #6d6963; --line: #e2ded7;
  --matte: #ebe8e2; --lift: 0% }
@media (prefers-color-scheme: dark) {
  :root { --ground: #151412; --card: #211f1c; --ink: #ece9e3; --faint: #a29d95; --line: #37342f; --matte: #2d2a26;
    --lift: 55% } }
* { box-sizing: border-box; margin: 0 }
body { background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; max-width: 100rem;
  margin: auto; padding: 0 clamp(.75rem, 2vw, 2rem) 2rem; overflow-wrap: anywhere }
.page { position: sticky; top: 0; z-index: 1; display: flex; flex-wrap: wrap; align-items: baseline; gap: 0 1rem;
  padding: .75rem 0; background: var(--ground) }
h1 { font-size: 1.3rem; line-height: 1.25 }
h2 { font-size: 1.1rem; line-height: 1.3 }
ol, ul { list-style: none; padding: 0 }
.facts, .label, .gap, details { color: var(--faint); font-size: .85rem }
.toggles { display: flex; gap: 1rem; margin-left: auto; font-size: .9rem }
.toggles label { cursor: pointer }
article { background: var(--card); border: 1px solid var(--line); border-radius: 12px; margin-bottom: 1.25rem;
  padding: clamp(.75rem, 1.5vw, 1.25rem) }
.frames { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 13rem), 1fr)); gap: 1.25rem 1rem;
  margin: 1rem 0 }
.picture { position: relative; overflow: hidden; border-radius: 8px; background: var(--matte) }
.picture::after { content: ""; position: absolute; inset: 0; border: 1px solid rgb(128 128 128 / .25);
  border-radius: inherit; pointer-events: none }
.picture > img, .boxes:is(svg), .gap { position: absolute; inset: 0; width: 100%; height: 100% }
.gap { padding: .3rem .6rem }
.boxes rect { fill: none; stroke-width: 2; vector-effect: non-scaling-stroke }
.tag { position: absolute; max-width: 60%; padding: 0 .4em; border-radius: 3px; background: var(--c); color: #fff;
  font-size: 11px; line-height: 1.5; white-space: nowrap; overflow: hidden; text-overflow: ellipsis }
.tag.above { transform: translateY(-100%) }
body:has(#masks:not(:checked)) .masks, body:has(#boxes:not(:checked)) .boxes,
body:has(#pronouns:not(:checked)) .referential { display: none }
figcaption { padding-top: .4rem }
.caption { margin: .15rem 0 .35rem }
.referential { color: var(--faint); border-inline-start: 3px solid var(--line); padding-inline-start: .6em }
mark { background: var(--rule) 0 100% / 100% 2px no-repeat; color: color-mix(in srgb, white var(--lift), var(--c));
  font-weight: 600; padding-bottom: 1px }
.chips { display: flex; flex-wrap: wrap; gap: .3rem; margin-top: .35rem }
.chip { padding: .05em .6em; border-radius: 1em; font-size: .8rem;
  color: color-mix(in srgb, white var(--lift), var(--c)); background: color-mix(in srgb, var(--c) 14%, transparent) }
.setting { color: var(--faint); background: none; border: 1px solid var(--line) }
summary { cursor: pointer }
dl { display: grid; grid-template-columns: auto 1fr; gap: .1rem .8rem; padding-top: .3rem }
dd { min-width: 0 }
dd ol { list-style: decimal; padding-inline-start: 1.5em }
dl dl { padding: 0 }
"""

SERVED = """
:root { --strong: #1c5fae; --trained: #d5ecd3; --trained-edge: #2e7d32; --read: #1565c0; --generated: #8e24aa }
@media (prefers-color-scheme: dark) {
  :root { --strong: #8fbcf2; --trained: #1f4024; --trained-edge: #81c784; --read: #7db6f5; --generated: #d79be6 } }
a { color: var(--strong) }
h1 a { color: inherit; text-decoration: none }
:focus-visible { outline: 2px solid var(--strong); outline-offset: 2px }
.toggles label, .names label { display: inline-flex; align-items: center; gap: .4em; min-height: 2.75rem }
.toggles label:has(:disabled) { color: var(--faint); cursor: default }
input, select, button, .button { font: inherit; color: var(--ink); accent-color: var(--strong) }
input:is([type=text], [type=number]), select, button, .button { min-height: 2.75rem; padding: .3rem .7rem;
  border: 1px solid color-mix(in srgb, var(--faint) 70%, transparent); border-radius: 8px; background: var(--card) }
input:is([type=text], [type=number]), select { width: 100% }
input[type=checkbox] { width: 1.1rem; height: 1.1rem }
button, .button { display: inline-flex; align-items: center; cursor: pointer; text-decoration: none }
button:disabled { color: var(--faint); cursor: default; opacity: .6 }
.primary { background: var(--strong); border-color: var(--strong); color: var(--card); font-weight: 600 }
.filters { color: inherit; font-size: inherit; margin-bottom: 1rem }
.filters > summary { padding: .6rem 0; font-weight: 600 }
.filters form { display: grid; gap: .9rem; background: var(--card); border: 1px solid var(--line);
  border-radius: 12px; padding: 1rem }
.filters label, legend { font-size: .85rem; color: var(--faint) }
.filters .names label { font-size: .95rem; color: var(--ink); gap: .5em; min-width: 0 }
fieldset { border: 0; padding: 0; min-width: 0 }
.names { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: 0 .5rem }
.names small { color: var(--faint) }
@media (pointer: fine) { .names label { min-height: 2rem } }
.pair { display: grid; grid-template-columns: 1fr auto 1fr; gap: .5rem; align-items: center }
.acts { display: flex; gap: .75rem; align-items: center; margin-bottom: .5rem }
form .acts { margin: 0 }
.head { display: flex; flex-wrap: wrap; gap: .25rem 1rem; align-items: baseline }
.head h2 { flex: 1 1 auto }
.tool { display: inline-flex; align-items: center; gap: .4em; min-height: 2.75rem; font-size: .9rem }
.found { padding-bottom: .75rem }
.empty { padding: 2rem 1.25rem; text-align: center }
.empty > * + * { margin-top: .75rem }
.pager { display: flex; gap: 1rem; align-items: center; justify-content: center; padding: .5rem 0 }
@media (min-width: 60rem) {
  .browse { display: grid; grid-template-columns: 15rem minmax(0, 1fr); gap: 1.5rem; align-items: start }
  .browse > .filters { position: sticky; top: 4.25rem; max-height: calc(100vh - 5rem); overflow-y: auto }
  .names { grid-template-columns: 1fr }
  @supports selector(::details-content) {
    .filters > summary { display: none }
    .filters::details-content { content-visibility: visible; display: block }
  }
}
.tabs { display: flex; flex-wrap: wrap; gap: .5rem; margin: .75rem 0 }
.tabs [aria-current] { background: var(--strong); border-color: var(--strong); color: var(--card) }
.note { border-inline-start: 4px solid var(--strong); padding: .5rem 1rem; margin: 1rem 0; background: var(--card) }
.sums { display: flex; flex-wrap: wrap; gap: .25rem 2rem; padding: .25rem 0 .75rem }
.sums div { display: flex; flex-direction: column-reverse }
.sums dt { color: var(--faint); font-size: .85rem }
.sums dd { font-size: 1.25rem; font-weight: 600; font-variant-numeric: tabular-nums }
.legend { display: flex; flex-wrap: wrap; gap: .35rem 1.25rem; font-size: .85rem; margin-bottom: .75rem }
.tokens { line-height: 1.2 }
.token { display: inline-flex; flex-direction: column; align-items: center; vertical-align: top; margin: 0 2px 6px 0;
  padding: 3px 5px; border-radius: 4px; background: var(--matte); border-bottom: 2px solid transparent;
  max-width: 100%; font: 14px/1.25 ui-monospace, monospace; white-space: pre-wrap }
.token small { color: var(--faint); font-size: 11px }
.token.trained { background: var(--trained); border-color: var(--trained-edge) }
.token.trained small { color: inherit }
body:has(#ids:not(:checked)) .token small { display: none }
.token .spoken { background: var(--rule, linear-gradient(var(--faint), var(--faint))) 0 100% / 100% 3px no-repeat;
  padding-bottom: 3px }
.slot { display: block; border: 2px solid var(--edge); border-radius: 8px; margin: 4px 0 10px; padding: 6px 8px }
.slot > summary { display: flex; align-items: center; gap: .75rem; min-height: 2.75rem; color: var(--ink) }
.slot > summary img { flex: none; width: 64px; height: 48px; object-fit: cover; border-radius: 4px;
  background: var(--matte) }
.slot > summary b { color: var(--edge) }
.slot > summary::after { content: "show"; margin-inline-start: auto; color: var(--strong); white-space: nowrap }
.slot[open] > summary::after { content: "hide" }
.slot > p { padding-top: .5rem; color: var(--ink) }
.read { --edge: var(--read) }
.generated { --edge: var(--generated) }
.legend .swatch { padding: 0 .5em; border-radius: 4px }
.legend .read, .legend .generated { border: 2px solid var(--edge) }
.tokens + .facts { margin: .75rem 0 }
.decoded { white-space: pre-wrap; padding-top: .5rem }
"""
