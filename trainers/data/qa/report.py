"""What was written, in numbers: rows, turns, tokens, what came twice, what was thrown away, what failed and why."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainers.data.qa.filters import plain
from trainers.data.qa.output import QAFiles, read_rows
from trainers.files import write_record


__all__ = ["report_lines", "report_on", "write_report"]

LISTED = 6  # entries of a table in one line


def write_report(out: Path) -> dict[str, Any]:
    """Writes `OUT.report.json`, about everything that was ever written to `OUT`, and gives it back."""
    report = report_on(QAFiles.of(out))
    write_record(out.with_name(f"{out.name}.report.json"), report)
    return report


def report_on(files: QAFiles) -> dict[str, Any]:
    """
    Reads everything that was written.

    Args:
        files ([`QAFiles`]): the files of an output.

    Returns:
        `dict`: of the types of JSON. `duplicates` counts images whose file, questions whose words and dialogues
        whose answers an earlier row has; `letters` is the share of each script (as Unicode names it: LATIN, CJK …);
        `tokens` are sums over the rows for which the model said how many, `tokens_unknown` counts the others.
    """
    totals, turns, characters = Counter(), Counter(), Counter()
    thrown_away, failures = Counter(), Counter()
    seen: dict[str, set[bytes]] = {"images": set(), "questions": set(), "dialogues": set()}
    duplicates = Counter(dict.fromkeys(seen, 0))

    def look(what: str, text: str | None) -> None:
        key = None if text is None else hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        duplicates[what] += key in seen[what]
        seen[what].update(() if key is None else (key,))

    for good, row, stats in read_rows(files):
        totals["good" if good else "failed"] += 1
        totals["tokens_unknown"] += stats.get("prompt_tokens") is None
        for name in ("calls", "retries", "prompt_tokens", "completion_tokens"):
            totals[name] += stats.get(name) or 0
        thrown_away.update(stats.get("dropped", {}))
        look("images", stats.get("image"))
        if not good:
            failures[str(row.get("reason"))] += 1
            continue
        questions, answers = _turns(row, files)
        turns[len(answers)] += 1
        characters.update("".join(questions + answers))
        look("dialogues", "\n".join(map(plain, answers)))
        for question in questions:
            look("questions", plain(question))
    return _summary(totals, turns) | {
        "duplicates": dict(duplicates),
        "refusals": sum(number for fault, number in thrown_away.items() if fault.endswith("refusal")),
        "thrown_away": dict(thrown_away.most_common()),
        "letters": _shares_of_scripts(characters),
        "failures": dict(failures.most_common()),
    }


def report_lines(report: dict[str, Any]) -> Iterator[str]:
    """The report for a person, a line at a time."""
    rows, turns = report["rows"], report["turns"]
    yield f"rows         {rows['good']} good, {rows['failed']} failed"
    yield f"turns        {turns['total']}, {turns['mean']} a row ({_listed(turns['rows_by_turns'])})"
    unknown = f", unknown of {report['tokens_unknown']} rows" if report["tokens_unknown"] else ""
    yield f"tokens       {report['tokens']['prompt']} read, {report['tokens']['completion']} written{unknown}"
    yield f"requests     {report['calls']}, sent again {report['retries']}"
    yield f"duplicates   {_listed(report['duplicates'])}"
    yield f"thrown away  {_listed(report['thrown_away'])}"
    yield f"refusals     {report['refusals']}"
    yield f"letters      {_listed(report['letters'])}"
    yield f"failures     {_listed(report['failures'])}"


def _turns(row: dict[str, Any], files: QAFiles) -> tuple[list[str], list[str]]:
    """Questions and answers of a row."""
    try:
        contents = [message["content"] for message in row["messages"]]
        if not contents or not all(isinstance(content, str) for content in contents):
            raise TypeError("a content is no text")
    except (KeyError, TypeError) as error:
        raise ValueError(f"The row {row['id']!r} of {files.rows} has been changed: it has no dialogue.") from error
    return contents[::2], contents[1::2]


def _summary(totals: Counter[str], turns: Counter[int]) -> dict[str, Any]:
    total = sum(number * rows for number, rows in turns.items())
    return {
        "rows": {"good": totals["good"], "failed": totals["failed"]},
        "turns": {
            "total": total,
            "mean": round(total / totals["good"], 2) if totals["good"] else 0.0,
            "rows_by_turns": {str(number): turns[number] for number in sorted(turns)},
        },
        "tokens": {"prompt": totals["prompt_tokens"], "completion": totals["completion_tokens"]},
        "tokens_unknown": totals["tokens_unknown"],
        "calls": totals["calls"],
        "retries": totals["retries"],
    }


def _shares_of_scripts(characters: Counter[str]) -> dict[str, float]:
    scripts: Counter[str] = Counter()
    for character, number in characters.items():
        if character.isalpha():
            scripts[unicodedata.name(character, "UNKNOWN").split()[0].split("-")[0]] += number
    return {script: round(number / scripts.total(), 4) for script, number in scripts.most_common()}


def _listed(table: dict[str, Any]) -> str:
    entries = [f"{name} {number}" for name, number in table.items()]
    more = len(entries) - LISTED
    return ", ".join(entries[:LISTED]) + (f" and {more} more" if more > 0 else "") or "none"
