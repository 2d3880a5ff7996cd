"""The page that explains the pictures: one HTML file, no script, light or dark, wide or narrow."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from edge_runtime.files import write_text
from train.gallery import adder, adding, cliff
from train.gallery.adder import Skill
from train.gallery.adding import Curve
from train.gallery.cliff import Jump


@dataclass(frozen=True, slots=True)
class Section:
    """One example on the page.

    Attributes:
        title: Its heading.
        pictures: File names beside the page, with what each shows for those who cannot see it.
        text: HTML.
    """

    title: str
    pictures: tuple[tuple[str, str], ...]
    text: str


def write_page(path: Path, sections: Sequence[Section]) -> None:
    """Writes the page; the pictures are files beside it."""
    write_text(path, PAGE.format(sections="\n".join(map(_section, sections))))


def by_hand_section() -> Section:
    """The LSTM worked by hand."""
    alt = (
        "A table of nine steps: the inputs, the three gates, the memory before each step, and the "
        "output, which is 7 at step 6, 6 at step 9 and else 0."
    )
    return Section("An LSTM worked by hand", (("by-hand.png", alt),), BY_HAND)


def adder_section(skills: Sequence[Skill]) -> Section:
    """The adder that needs memory."""
    with_memory, without = skills
    alt = (
        "A sum worked digit by digit, and the share of right digits by the length of the numbers: "
        f"{_percent(with_memory.digits[-1])} with memory and {_percent(without.digits[-1])} "
        f"without at {with_memory.lengths[-1]} digits."
    )
    text = ADDER.format(
        longest=adder.LONGEST,
        farthest=adder.FARTHEST,
        tested=adder.TESTED,
        additions=adder.ADDITIONS,
        hidden=adder.HIDDEN,
        right=_percent(with_memory.digits[-1]),
        sums=_percent(with_memory.sums[-1]),
        wrong=_percent(without.digits[-1]),
        said=_digits(with_memory.example),
        said_without=_digits(without.example),
    )
    return Section("The adder that needs memory", (("adder.png", alt),), text)


def cliff_section(plain: Jump, clipped: Jump) -> Section:
    """Why it is hard."""
    pictures = (
        (
            "powers.png",
            "w to the power of t over a thousand steps: 1 stays, 1.01 grows to twenty thousand, "
            "0.99 fades to 0.00004, 0.01 is gone after 23 steps.",
        ),
        (
            "cliff.png",
            f"An error surface over w and b with a steep wall. A clipped step moves "
            f"{clipped.reach:.2g} and ends at its foot, one that is not moves {plain.reach:.2g}.",
        ),
    )
    text = CLIFF.format(
        steps=cliff.STEPS,
        begin=cliff.BEGIN,
        goal=cliff.GOAL,
        rate=cliff.LEARNING_RATE,
        clip=cliff.CLIP_NORM,
        w=plain.start[0],
        b=plain.start[1],
        norm=plain.norm,
        before=plain.error_before,
        plain_reach=plain.reach,
        plain_error=plain.error_after,
        clipped_reach=clipped.reach,
        clipped_error=clipped.error_after,
    )
    return Section("Why it is hard", pictures, text)


def adding_section(curves: Sequence[Curve], settings: dict[str, Any]) -> Section:
    """Who remembers how long."""
    longest = max(curve.length for curve in curves)
    best = [c.cell for c in curves if c.length == longest and adding.solved_at(c) is not None]
    alt = (
        f"The error of {len({c.cell for c in curves})} cells over {settings['steps']:,} training "
        f"steps, a panel a length. At length {longest}, below {adding.SOLVED:g} at some time: "
        f"{', '.join(best) or 'none'}."
    )
    text = ADDING.format(
        steps=settings["steps"],
        hidden=settings["hidden"],
        batch=settings["batch"],
        clip=settings["clip_norm"],
        seed=settings["seed"],
        grid=", ".join(f"{rate:g}" for rate in adding.GRID),
        tested=adding.TEST_SEQUENCES,
        solved=adding.SOLVED,
        table=_adding_table(curves),
    )
    return Section("Who remembers how long", (("adding.png", alt),), text)


def _adding_table(curves: Sequence[Curve]) -> str:
    lengths = sorted({curve.length for curve in curves})
    found = {(curve.cell, curve.length): curve for curve in curves}
    head = "".join(f"<th>{length} numbers</th>" for length in lengths)
    rows = [f"<tr><th>cell</th><th>learning rate</th>{head}</tr>"]
    constant = "".join(f"<td>{adding.chance(length):.3f}</td>" for length in lengths)
    rows.append(f"<tr><th>always saying 1</th><td></td>{constant}</tr>")
    for cell, rate in adding.LEARNING_RATES.items():
        cells = "".join(f"<td>{_outcome(found[cell, length])}</td>" for length in lengths)
        rows.append(f"<tr><th>{escape(cell)}</th><td>{rate:g}</td>{cells}</tr>")
    return "\n".join(rows)


def _outcome(curve: Curve) -> str:
    at = adding.solved_at(curve)
    return f"{curve.errors[-1]:.2g}" + (f", solved at {at:,}" if at is not None else "")


def _percent(share: float) -> str:
    """Only what is all of it is 100 %."""
    return "100 %" if share == 1 else f"{min(100 * share, 99.99):.4g} %"


def _digits(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _section(section: Section) -> str:
    figures = "\n".join(
        f'<figure><a href="{escape(name)}"><img src="{escape(name)}" alt="{escape(alt)}"></a>'
        "</figure>"
        for name, alt in section.pictures
    )
    return f"<section>\n<h2>{escape(section.title)}</h2>\n{figures}\n{section.text}\n</section>"


PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Andon: what a memory is for</title>
<style>
:root {{ color-scheme: light dark;
  --text: #1d2430; --back: #fff; --faint: #5d6875; --line: #d5dbe1; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --text: #e4e8ed; --back: #14181d; --faint: #9aa5b1; --line: #39424d; }}
}}
* {{ box-sizing: border-box; }}
body {{ margin: 0 auto; padding: 1rem; max-width: 54rem; overflow-wrap: break-word;
  font: 1.05rem/1.55 system-ui, sans-serif; color: var(--text); background: var(--back); }}
h1, h2 {{ line-height: 1.2; }}
h2 {{ margin-top: 3rem; }}
figure {{ margin: 1rem 0; }}
img {{ display: block; width: 100%; height: auto; background: #fff; border-radius: 6px;
  border: 1px solid var(--line); padding: 6px; }}
.formula {{ margin: 1rem 0; padding-left: 1rem; border-left: 3px solid var(--line); }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: 0.9rem; }}
th, td {{ padding: 0.25rem 0.7rem; text-align: left; border-bottom: 1px solid var(--line);
  white-space: nowrap; }}
.source {{ color: var(--faint); font-size: 0.9rem; }}
</style>
</head>
<body>
<h1>What a memory is for</h1>
<p>Four small examples of recurrent networks, computed and trained by this installation of Andon.
What is said of them was measured, in the run that made the pictures.</p>
{sections}
</body>
</html>
"""

BY_HAND = """\
<p>One LSTM cell with three inputs. Its weights were not learnt but chosen: <var>x</var><sub>2</sub>
= 1 opens the input gate, which adds <var>x</var><sub>1</sub> to the memory;
<var>x</var><sub>2</sub> = &minus;1 shuts the forget gate, which empties it;
<var>x</var><sub>3</sub> = 1 opens the output gate, which lets it out. Between these moments the
memory stands still, for three steps or three million.</p>
<p class="formula"><var>c</var>&prime; = <var>f</var> &middot; <var>c</var> + <var>i</var> &middot;
<var>x</var><sub>1</sub>, &nbsp; <var>y</var> = <var>o</var> &middot; <var>c</var>&prime;, &nbsp;
with <var>i</var> = &sigma;(256 <var>x</var><sub>2</sub> &minus; 128), <var>f</var> =
&sigma;(256 <var>x</var><sub>2</sub> + 128), <var>o</var> = &sigma;(256 <var>x</var><sub>3</sub>
&minus; 128)</p>
<p>So far from zero a sigmoid is 0 or 1 to the last bit of a float, and the sums come out whole. The
cell's input and output are not squashed here (<code>squash = "identity"</code>).</p>
<p class="source">Hochreiter &amp; Schmidhuber 1997, Long short-term memory. Gers, Schmidhuber &amp;
Cummins 2000, Learning to forget.</p>"""

ADDER = """\
<p>Two numbers enter digit by digit, the last digits first, and out comes their sum. (4, 7), (4, 7),
(1, 1) gives 1, 2, 3: the same pair twice and two different answers, because the first one left a
carry. What must be remembered is a single bit, but it may have to travel through every digit.</p>
<p>Two networks of two layers with {hidden} units each were trained on {additions:,} additions of
numbers with up to {longest} digits. The one whose upper layer is an Elman network answered
{said}; on {tested} sums of {farthest} digits it got {right} of the digits and {sums} of the whole
sums right. It has learnt to add, not to recite. The one without memory had the same training and
answered {said_without}; at {farthest} digits it got {wrong} of the digits. The same input gives it
the same answer, so it cannot do better than guess whether there was a carry.</p>
<p class="formula"><var>h</var>&prime; = tanh(<var>W</var> <var>x</var> + <var>U</var>
<var>h</var> + <var>b</var>), and the same without <var>U</var> <var>h</var></p>
<p class="source">Elman 1990, Finding structure in time.</p>"""

CLIFF = """\
<p>A recurrent weight multiplies what is remembered at every step, and the gradient on its way back
just the same. After a thousand steps 1.01 has become 20,959 and 0.99 has become 0.00004; with 0.01
float32 holds nothing but zero after 23 steps. Between memories that explode and memories that
vanish there is only 1, which is what the LSTM's forget gate and the IRNN's first weights are set
to.</p>
<p class="formula"><var>h</var><sub><var>t</var></sub> = tanh(<var>w</var>
<var>h</var><sub><var>t</var>&minus;1</sub> + <var>b</var>), &nbsp; <var>h</var><sub>0</sub> =
{begin:g}, &nbsp; error = (<var>h</var><sub>{steps}</sub> &minus; {goal:g})<sup>2</sup></p>
<p>One such unit after {steps} steps makes the surface below it: flat, and then a cliff. At
<var>w</var> = {w:g}, <var>b</var> = {b:g}, a hair from its edge, the error is {before:.3g} and the
gradient has a norm of {norm:.3g}. One step of gradient descent with learning rate {rate:g} flings
the weights {plain_reach:.3g} away, far out on the plain (error {plain_error:.2g}), where the
gradient is almost zero and nothing leads back. The same gradient, scaled down to a norm of
{clip:g}, points the same way and moves them {clipped_reach:.2g}: down the cliff, to an error of
{clipped_error:.2g}.</p>
<p class="source">Pascanu, Mikolov &amp; Bengio 2013, On the difficulty of training recurrent neural
networks, figure 6, here with tanh in the place of the logistic function. Bengio, Simard &amp;
Frasconi 1994, Learning long-term dependencies with gradient descent is difficult.</p>"""

ADDING = """\
<p>A sequence of random numbers between 0 and 1 goes by. Two of them are marked, one in the first
half and one in the second. After the last number the network says the sum of the two. Whoever
remembers nothing says 1 and is wrong by 1/6 on average, squared; a network has learnt something
where its curve leaves that line.</p>
<p>Every cell had the same: {hidden} units in one layer, {steps:,} steps of Adam with {batch}
sequences each, gradients clipped to a norm of {clip:g}, seed {seed}. The learning rate is the one
of {grid} that gave the cell the lowest error at 50 numbers after 1,500 steps. IRNN begins with its
paper's weights. The errors are those on {tested} other sequences, after the last step; solved means
below {solved:g}. One seed is an example, not a proof: with another one, or with more steps, some
curves will leave the line earlier or later.</p>
<div class="wide"><table>
{table}
</table></div>
<p class="source">Hochreiter &amp; Schmidhuber 1997, section 5.4. Le, Jaitly &amp; Hinton 2015, A
simple way to initialize recurrent networks of rectified linear units, section 4.1.</p>"""
