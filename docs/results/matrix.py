"""Writes the matrix of samplers and priors as a Markdown table.

  python docs/results/matrix.py
  python docs/results/matrix.py --write=README.md

--write replaces what stands between `<!-- matrix -->` and `<!-- /matrix -->`.
"""

import argparse
import pathlib
import re
import sys
from collections.abc import Mapping, Sequence

from vq_jax import matrix, pipeline, plugins

PATTERN = re.compile(r"(<!-- matrix -->\n).*?(<!-- /matrix -->)", re.S)


def markdown(pairs: Mapping[tuple[str, str], str]) -> str:
  """The table, and below it the refusals that are not of a missing method."""
  samplers = list(dict.fromkeys(sampler for sampler, _ in pairs))
  priors = list(dict.fromkeys(prior for _, prior in pairs))
  reasons: list[str] = []
  lines = [["sampler", "needs", *priors], ["---"] * (len(priors) + 2)]
  for sampler in samplers:
    needs = plugins.resolve("samplers", sampler).NEEDS
    cells = [
      cell(sampler, prior, pairs[sampler, prior], reasons) for prior in priors
    ]
    lines.append([f"`{sampler}`", _names(needs), *cells])
  table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
  notes = "\n".join(f"{i}. {why}" for i, why in enumerate(reasons, 1))
  return f"{table}\n\n{notes}" if notes else table


def cell(sampler: str, prior: str, said: str, reasons: list[str]) -> str:
  """ "yes", what the prior lacks, or the number of a reason, which is added."""
  if said == "yes":
    return said
  built = pipeline.build_prior(matrix.sections()[prior])
  lacking = matrix.lacks(sampler, built)
  if lacking:
    return f"no {_names(lacking)}"
  if said not in reasons:
    reasons.append(said)
  return f"no ({reasons.index(said) + 1})"


def _names(words: Sequence[str]) -> str:
  return ", ".join(f"`{word}`" for word in words)


def main(argv: Sequence[str] | None = None) -> int:
  """Prints the table; writes it where asked to."""
  parser = argparse.ArgumentParser(
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument("--write", type=pathlib.Path, help="file with markers")
  args = parser.parse_args(argv)
  table = markdown(matrix.pairs())
  print(table)
  if args.write:
    text = args.write.read_text(encoding="utf-8")
    text, count = PATTERN.subn(lambda m: f"{m[1]}{table}\n{m[2]}", text)
    if count != 1:
      raise ValueError(
        f"Wanted one <!-- matrix --> ... <!-- /matrix -->, found {count}."
      )
    args.write.write_text(text, encoding="utf-8")
  return 0


if __name__ == "__main__":
  sys.exit(main())
