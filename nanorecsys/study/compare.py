"""Two runs side by side, claim by claim: a reader's and the published one, or a run and its repeat.

Claims are judged again from the result records of both, by the code of this clone. A claim agrees
if its value comes out alike within a stated tolerance, whatever its verdict.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from nanorecsys.study.chapters import Chapter, chapters
from nanorecsys.study.claims import JudgedClaim, judge
from nanorecsys.study.fingerprint import differing, some_of
from nanorecsys.study.gate import GateError, check_definitions
from nanorecsys.study.layout import Layout
from nanorecsys.study.original import judge_original
from nanorecsys.study.parameters import RUN_NAME, is_seed
from nanorecsys.study.records import FILE, Record, RecordError, read_record
from nanorecsys.system.errors import NanorecsysError

OUTCOMES = (
    *("agrees", "differs", "same verdict", "other verdict"),
    *("not judged", "not measured", "not repeated"),
)
Records = Mapping[str, Record]  # by chapter

PUBLISHED = "published"
REPEATED = "again"  # among the published results: the records of a second run
OTHER_MACHINE = "other-machine"  # and those of a run on another machine
TITLES = {REPEATED: "second run", OTHER_MACHINE: "another machine"}
RATIO = 1.25  # largest quotient of two ratios that agree
QUALITY = 0.02  # two standard errors of HitRate@10 over the 671 users of the bundled data


class CompareError(NanorecsysError):
    """There is nothing to compare."""


def compare(everything: Mapping[str, Chapter], ours: Records, theirs: Records) -> pd.DataFrame:
    """Compare the claims of two runs.

    Args:
        everything: All chapters.
        ours: Records of the run.
        theirs: Records of the run that it is compared with.

    Returns:
        One row per claim (claim, other, run, outcome), each side with its verdict and value.
    """
    rows = []
    pairs = zip(judge_all(everything, ours), judge_all(everything, theirs), strict=True)
    for own, other in pairs:
        changed = changed_parameters(everything[own.chapter], ours, theirs)
        outcome = agreement(own, other, same_parameters=not changed)
        if own.chapter in ours and ours[own.chapter] == theirs.get(own.chapter):
            outcome = "not repeated"  # a second run may start from the first one's training
        rows.append((own.id, str(other), str(own), outcome))
    return pd.DataFrame(rows, columns=["claim", "other", "run", "outcome"])


def judge_all(everything: Mapping[str, Chapter], found: Records) -> list[JudgedClaim]:
    """Judge the findings of all chapters, then the original's rows about these chapters."""
    findings = (c for name, chapter in everything.items() for c in judge(chapter, found.get(name)))
    return [*findings, *(c for c in judge_original(found) if c.chapter in everything)]


def counts(claims: pd.DataFrame) -> str:
    """How many claims of a comparison had each outcome, in words."""
    number = Counter(claims.outcome)
    told = ", ".join(f"{name} {number[name]}" for name in OUTCOMES if number[name])
    return f"{len(claims)} claims: {told}"


def records(folders: Layout, results: Path) -> dict[str, Record]:
    """The records in a folder of results by chapter; chapters that have not run are left out.

    A record of another machine may be older than the definitions, see `older_definitions`.

    Raises:
        CompareError: There is no record, or one is damaged, of another version or was made under
            other definitions.
    """
    found = {}
    try:
        for name, chapter in chapters(folders).items():
            if not chapter.is_summary and (results / name / FILE).exists():
                found[name] = read_record(results / name, chapter.module.Result, raw_rows=False)
                if results.name != OTHER_MACHINE:
                    check_definitions(chapter, found[name])
    except (GateError, RecordError) as error:
        remedy = error.remedy
        if results.is_relative_to(folders.published):
            remedy = f"replace {folders.relative(results)} with a new publication, or delete it"
        raise CompareError(f"{title(folders, results)}: {error.message}", remedy) from error
    if found:
        return found
    existing = sorted({path.parent.parent.name for path in folders.runs.glob(f"*/*/{FILE}")})
    raise CompareError(
        f"{title(folders, results)!r} has no results; runs: {', '.join(existing) or 'none'}",
        "nanorecsys run PROFILE, with --again for a second run; nanorecsys publish PROFILE",
    )


def changed_parameters(chapter: Chapter, ours: Records, theirs: Records) -> list[str]:
    """Parameters of a chapter, and of those that it reads, in which two runs differ.

    Random seeds are left out: a claim has to come out alike with others.
    """
    both = [name for name in (chapter.name, *chapter.needs) if name in ours and name in theirs]
    return list(dict.fromkeys(n for name in both for n in _changed(ours[name], theirs[name])))


def _changed(own: Record, other: Record) -> list[str]:
    names = differing(own.parameters, other.parameters)
    return [name for name in names if name != RUN_NAME and not is_seed(name)]


def other_parameters(ours: Records, theirs: Records) -> str:
    """The parameters in which two runs differ, by chapter, in a sentence; empty if in none."""
    both = sorted(ours.keys() & theirs.keys())
    changed = {name: _changed(ours[name], theirs[name]) for name in both}
    told = [f"{name} ({', '.join(some_of(names))})" for name, names in changed.items() if names]
    return f"Its parameters differ in {'; '.join(told)}, which can change its figures." * bool(told)


def other_seeds(ours: Records, theirs: Records) -> str:
    """The chapters in which two runs have other random seeds, in a sentence; empty if in none."""
    told = [
        name
        for name in sorted(ours.keys() & theirs.keys())
        if any(map(is_seed, differing(ours[name].parameters, theirs[name].parameters)))
    ]
    return f"Its random seeds differ in {', '.join(told)}." * bool(told)


def agreement(own: JudgedClaim, other: JudgedClaim, *, same_parameters: bool) -> str:
    """Whether a claim came out in one run as in the other; one of `OUTCOMES`.

    `ratio`s are alike within `RATIO`; a `quality` is inside the other's interval or within
    `QUALITY`; what belongs to a `machine` is not judged; neither is an `exact` value, unless it
    differs, which is an error.

    Args:
        own: The claim as judged in the run.
        other: The claim as judged in the other run.
        same_parameters: Whether both ran with the same parameters apart from seeds. With others
            values may differ, so that only the verdicts are compared.
    """
    common = own.value.keys() & other.value.keys()
    if not common:
        return "not measured"
    if own.agreement == "machine":
        return "not judged"
    if not same_parameters:
        return "same verdict" if own.verdict == other.verdict else "other verdict"
    if own.agreement == "exact":
        return "not judged" if own.shown == other.shown else "differs"
    return "agrees" if all(_alike(name, own, other) for name in common) else "differs"


def _alike(name: str, own: JudgedClaim, other: JudgedClaim) -> bool:
    """Whether the values of one data set agree within the tolerance."""
    a, b = own.value[name], other.value[name]
    if own.agreement == "ratio":
        return max(a, b) <= RATIO * min(a, b)
    low, high = other.interval.get(name, (b, b))
    return low <= a <= high or abs(a - b) <= QUALITY


def older_definitions(everything: Mapping[str, Chapter], found: Records) -> str:
    """The chapters whose records were made under other definitions than the committed ones."""
    made = {name: record.provenance.definitions_sha256 for name, record in found.items()}
    return ", ".join(n for n, sha256 in made.items() if sha256 != everything[n].definitions_sha256)


def machines_of(found: Records) -> list[str]:
    """The machines that the records of a run were measured on, in words, each of them once."""
    machines = [record.provenance.machine for record in found.values()]
    return list(dict.fromkeys(f"{m.processor}, {m.cores} cores" for m in machines))


def machine_of(found: Records) -> str:
    """The machine that the records of a run were measured on, in words; all, if it has several."""
    return " and ".join(machines_of(found))


def title(folders: Layout, results: Path) -> str:
    """The name of a folder of results in tables and messages."""
    if results == folders.published:
        return PUBLISHED
    return TITLES[results.name] if results.parent == folders.published else results.name
