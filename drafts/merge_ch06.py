"""Merge drafts/ch06_a.py and ch06_b.py into drafts/ch06_policy_optimisation.py."""

import re
import subprocess
from pathlib import Path

D = str(Path(__file__).parent) + "/"
A = open(D + "ch06_a.py").read()
B = open(D + "ch06_b.py").read()
MD = "# %% [markdown]\n"


def cut(text, start, end=None):
    """From heading line `start` up to heading line `end`, as whole cells."""
    i = text.index("\n" + start) + 1
    j = text.index("\n" + end, i) + 1 if end else len(text)
    piece = text[i:j]
    piece = re.sub(r"(?:#\n)+$", "", piece)
    piece = re.sub(r"\n# %% \[markdown\]\n*$", "\n", piece)
    return MD + piece.rstrip("\n") + "\n\n"


head_a = A[: A.index("# ## A family and its quarrel")]
imports = lambda t: t[t.index("\n# %%\nimport") + 1 :]


# imports: union
def imp(t):
    block = t[t.index("\nimport copy") - 4 :]
    block = block[
        : block.index("\n\nFOUNDATIONS")
        if "\n\nFOUNDATIONS" in block
        else block.index("\nFOUNDATIONS")
    ]
    return block[block.index("import copy") :]


ia, ib = imp(A), imp(B)
names = {}
plain = set()
for line in re.sub(
    r"\(\n(.*?)\)", lambda m: " ".join(m.group(1).split()), ia + "\n" + ib, flags=re.S
).splitlines():
    if m := re.match(r"from (\S+) import (.*)", line):
        names.setdefault(m[1], set()).update(x.strip() for x in m[2].split(",") if x.strip())
    elif line.startswith("import"):
        plain.add(line)
union = (
    "\n".join(sorted(plain))
    + "\n"
    + "\n".join(f"from {m} import {', '.join(sorted(v))}" for m, v in sorted(names.items()))
    + "\n"
)
head = (
    A[: A.index("# %%\nimport copy")]
    + '# %% tags=["remove-stderr"]\n'
    + union
    + '\nFOUNDATIONS, EVOLUTION = load_chapter("ch00_foundations"), load_chapter("ch01_evolution")\nplots.use_style()\n\nWATCHING = 1_000_003  # seeds of episodes to look at\n\n'
)
rest = A[
    A.index('# %% tags=["remove-stderr"]\nversions') : A.index("# ## A family and its quarrel")
]
rest = re.sub(r"# %% \[markdown\]\n$", "", rest)
body = [
    head,
    rest,
    cut(A, "# ## A family and its quarrel", "# ## ACER: old"),
    cut(B, "# ## Memory: when one look", "# ## Bodies"),
    cut(A, "# ## ACER: old", "# ## Spot the bug"),
    cut(B, "# ## Bodies", "# ## Spot the bug"),
]
sa = cut(A, "# ## Spot the bug", "# ## Exercises").replace(
    "Spot the bug: four that learn anyway", "Spot the bug: six that learn anyway"
)
sb = cut(B, "# ## Spot the bug", "# ## Exercises")
sb = sb.replace(
    "# ## Spot the bug: a number that has to be 1", "# ### 5. A number that has to be 1"
).replace("# ### Twins that are clones", "# ### 6. Twins that are clones")
ea = cut(A, "# ## Exercises", "# ## Summary")
eb = cut(B, "# ## Exercises", "# ## Summary").replace("# ## Exercises\n#\n", "")
n = len(re.findall(r"^# \*\*\d\.", ea, flags=re.M))


def number(m):
    global n
    n += 1
    return f"# **{n}. "


eb = re.sub(r"^# \*\*(?=[A-Z])", number, eb, flags=re.M)
summary_a = cut(A, "# ## Summary", "# ## How the numbers")
summary_b = cut(B, "# ## Summary", "# ## How the numbers")
bullets = summary_b[summary_b.index("# - ") :].rstrip("\n")
summary = summary_a.replace("#\n# Further reading", bullets + "\n#\n# Further reading")
ma = cut(A, "# ## How the numbers").rstrip("\n")
mb = cut(B, "# ## How the numbers")
mb = mb[mb.index("# %%\ndef measure_memory") :]
mb = (
    re.sub(r"THREE = \(1, 2, 3\)\nRETURN, SECONDS = .*\n", "", mb)
    .replace("MEASUREMENTS = [", "MEASUREMENTS += [")
    .replace('SHOWN = ("P1",)', 'SHOWN = ("P1", "P8")')
)
ma = re.sub(r"SHOWN = .*\n?", "", ma)
out = "".join([*body, sa, sb, ea, eb, summary, ma.rstrip("\n") + "\n\n\n", mb])
p = D + "ch06_policy_optimisation.py"
open(p, "w").write(out)
subprocess.run(["ruff", "check", "-q", "--no-cache", "--fix", p])
subprocess.run(["ruff", "format", "--no-cache", p])
