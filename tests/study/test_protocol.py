"""The protocol: complete definitions that can fail, read one to one, and bound to the records."""

import json
from types import SimpleNamespace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanorecsys.study.chapters import chapters
from nanorecsys.study.claims import judge
from nanorecsys.study.layout import layout
from nanorecsys.study.original import BY_RULE, judge_row
from nanorecsys.study.parameters import RUN_NAME
from nanorecsys.study.protocol import ORIGINAL, Finding, Rule, read_protocol
from nanorecsys.study.spread import Interval
from nanorecsys.system.errors import NanorecsysError

PROTOCOL = read_protocol(layout())
COMPARISONS = [row for row in ORIGINAL if row.kind == "comparison"]


def names(findings):
    return [finding.id for finding in findings]


def judged(finding, *intervals):
    """The verdict on a finding whose chapter measured these intervals, one a data set."""
    found = {f"set {number}": interval for number, interval in enumerate(intervals)}
    record = SimpleNamespace(result=SimpleNamespace(dataset="set 0"))
    return judged_by(finding, lambda _: found, record).verdict


def judged_by(finding, read, record):
    module = SimpleNamespace(FINDINGS={finding.name: read})
    [claim] = judge(SimpleNamespace(findings=[finding], module=module), record)
    return claim


def beside(rule, distance):
    """A figure at a distance from a rule's bound, inside if that is positive."""
    return rule.bound + (-distance if rule.operator == "<=" else distance)


@pytest.mark.parametrize("finding", PROTOCOL.findings, ids=names(PROTOCOL.findings))
def test_a_finding_is_refuted_by_one_data_set_and_needs_all_of_them(finding):
    inside, outside = beside(finding.rule, 0.1), beside(finding.rule, -0.1)
    good = Interval(inside, *sorted((inside, beside(finding.rule, 0.2))))
    bad = Interval(outside, *sorted((outside, beside(finding.rule, -0.2))))
    crossing = Interval(inside, *sorted((inside, outside)))
    others = [good] * (finding.data == "both")
    assert judged(finding, good, *others) == "holds"
    assert judged(finding, bad, *others) == judged(finding, *others, bad) == "fails"
    assert judged(finding, crossing, *others) == "undecided"
    assert judged(finding, *others) == "not run"  # a data set is missing


def test_the_first_data_set_is_shown_first():
    finding = next(f for f in PROTOCOL.findings if f.data == "both")
    found = {"a": Interval(2.0, 2.0, 2.0), "b": Interval(1.0, 1.0, 1.0)}
    record = SimpleNamespace(result=SimpleNamespace(dataset="b"))
    assert judged_by(finding, lambda _: found, record).shown == "1 [1, 1]; 2 [2, 2]"


@pytest.mark.parametrize("row", COMPARISONS, ids=names(COMPARISONS))
def test_a_comparison_is_refuted_by_a_figure_beyond_its_bound(row):
    for distance, verdict in ((0.01, "replicated"), (-0.01, "refuted")):
        value = beside(row.rule, distance) * row.factor
        record = SimpleNamespace(result=None)
        assert judge_row(row, lambda _, v=value: (v, v, v), record).verdict == verdict
    assert judge_row(row, lambda _: None, SimpleNamespace(result=None)).verdict == "not run"


def test_every_definition_is_complete():
    optional = {"family", "headline"}
    for finding in PROTOCOL.findings:
        values = msgspec.structs.asdict(finding)
        assert [field for field in values if field not in optional and not values[field]] == []
        assert finding.id.partition(".")[0] == finding.chapter.partition("_")[2]
        assert finding.family in {"", *PROTOCOL.families}
    ids = names(PROTOCOL.findings)
    assert len(set(ids)) == len(ids)
    assert set(PROTOCOL.families) == {f.family for f in PROTOCOL.findings} - {""}
    for row in ORIGINAL:
        assert all((row.claim, row.original, row.source, row.section, row.shown)), row.id
        assert (row.kind in BY_RULE) == (row.rule is not None), row.id
    assert len({row.id for row in ORIGINAL}) == len(ORIGINAL)


def test_amendments_are_in_order_and_state_both_verdicts():
    dates = [amendment["date"] for amendment in PROTOCOL.amendments]
    assert dates == sorted(dates)
    assert dates[0] >= "2026-11-24"  # the first published record
    ids = {*names(PROTOCOL.findings), *(f"original.{row.id}" for row in ORIGINAL)}
    for amendment in PROTOCOL.amendments:
        assert list(amendment) == ["date", "changed", "what", "why", "before", "after"]
        assert all(amendment.values()), amendment
        if "." in amendment["after"] and " " not in amendment["after"]:
            assert amendment["after"] in ids


@given(
    ends=st.lists(st.tuples(st.floats(-9, 9), st.floats(0, 9)), min_size=1),
    bound=st.floats(-9, 9),
)
def test_a_verdict_follows_the_ends_of_every_interval(ends, bound):
    intervals = [Interval(low + width / 2, low, low + width) for low, width in ends]
    verdict = Rule(operator=">=", bound=bound).judge(intervals)
    assert (verdict == "holds") == all(i.low >= bound for i in intervals)
    assert (verdict == "fails") == any(i.high < bound for i in intervals)
    mirrored = [Interval(-i.estimate, -i.high, -i.low) for i in intervals]
    assert Rule(operator="<=", bound=-bound).judge(mirrored) == verdict


def test_zero_does_not_exceed_zero():
    touching = [Interval(0.1, 0.0, 0.2)]
    assert Rule(operator=">", bound=0).judge(touching) == "undecided"
    assert Rule(operator=">=", bound=0).judge(touching) == "holds"
    assert Rule(operator=">", bound=0).judge([]) == "not run"


def test_a_chapter_that_has_not_run_says_so():
    claim = judged_by(PROTOCOL.findings[0], lambda _: pytest.fail("there is no result"), None)
    assert (claim.verdict, claim.shown, claim.value) == ("not run", "-", {})


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("  unit: toys\n", "", "missing required field `unit`"),
        ("  unit: toys\n", "  unit: toys\n  limit: 3\n", "unknown field `limit`"),
        ('operator: ">="', 'operator: "=="', "Invalid enum value '=='"),
        ("data: first", "data: third", "Invalid enum value 'third'"),
    ],
)
def test_a_malformed_definition_is_told_with_its_place(mini, old, new, told):
    mini.edit("nanorecsys/study/protocol.yaml", old, new)
    with pytest.raises(NanorecsysError) as error:
        chapters(mini)
    assert "nanorecsys/study/protocol.yaml" in str(error.value)
    assert told in str(error.value)
    assert "$.findings[0]" in str(error.value)


def test_every_chapter_keeps_the_rules():
    found = chapters(layout())
    assert {finding.chapter for finding in PROTOCOL.findings} <= found.keys()
    for place, (name, chapter) in enumerate(found.items()):
        assert [f.name for f in chapter.findings] == list(chapter.module.FINDINGS), name
        assert set(chapter.needs) <= set(list(found)[:place])  # they run before it
        assert RUN_NAME in chapter.parameters


def test_a_changed_definition_is_refused_until_its_chapter_has_run_again(ran):
    assert ran.cli("check", "quick").returncode == 0
    ran.cli("publish", "quick")
    assert ran.cli("check").returncode == 0
    before = ran.protocol.read_text()
    place = before.index("02_beta")
    changed = before[:place] + before[place:].replace("The total is large.", "It is large.")
    ran.protocol.write_text(changed)  # its wording alone

    refused = ran.cli("check", "quick", check=False)
    assert refused.returncode == 1
    assert "02_beta ran under other definitions of its claims" in refused.stderr
    assert "run 02_beta again" in refused.stderr
    assert "01_alpha" not in refused.stderr
    assert "02_beta ran under other" in ran.cli("check", check=False).stderr
    assert ran.cli("compare", check=False).returncode == 2

    listed = ran.cli("run", "--list").stdout
    assert "the definitions" in listed
    ran.cli("run")
    assert ran.executions() == ["beta"]
    assert ran.cli("check", "quick").returncode == 0
    ran.protocol.write_text(before)
    assert ran.cli("check", "quick", check=False).returncode == 1


def test_a_record_holds_the_hash_of_its_own_definitions(ran):
    protocol = read_protocol(ran)
    for name in ("01_alpha", "02_beta"):
        record = json.loads((ran.run("quick") / name / "result.json").read_text())
        assert record["provenance"]["definitions_sha256"] == protocol.sha256(name)
    assert protocol.sha256("01_alpha") != protocol.sha256("02_beta")
    # a summary judges everything
    assert len({protocol.sha256(name) for name in ("01_alpha", "02_beta", "07_summary")}) == 3


def test_the_hash_is_of_whole_rows():
    finding = PROTOCOL.findings[0]
    hashes = {PROTOCOL.sha256(finding.chapter)}
    for field in msgspec.structs.fields(Finding):
        if field.type is str and field.name not in ("id", "chapter"):
            other = msgspec.structs.replace(finding, **{field.name: "other"})
            rows = [other, *PROTOCOL.findings[1:]]
            hashes.add(msgspec.structs.replace(PROTOCOL, findings=rows).sha256(finding.chapter))
    assert len(hashes) > 9
