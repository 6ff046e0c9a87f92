"""Rules: conditions over what is known, decisions, faults by line and column, and what is read of headers."""

import json
import re
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pydicom.data
import pytest
from hypothesis import given
from hypothesis import strategies as st
from node_bench import image, written
from pydicom.dataset import Dataset
from pydicom.filereader import read_file_meta_info
from pydicom.misc import is_dicom
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_node.routing.condition import Condition, Fault
from dicom_node.routing.decision import Action, Decision, Priority, Target
from dicom_node.routing.explanation import explain
from dicom_node.routing.facts import ATTRIBUTES, Facts, facts_of
from dicom_node.routing.header import Header, Person, header_of, person_of, read_header, read_person
from dicom_node.routing.router import asked_priority, time_of_day
from dicom_node.routing.rules import Names, Route, decide, in_sample, load_rules, parse_rules
from dicom_node.settings import Settings
from engine.errors import NodeError, SettingsError

NOON = datetime(2027, 1, 16, 12, 30)
NAMES = Names(plans=("chest-xray", "mammography"), destinations=("pacs", "archive"), profiles=("minimal", "viewer"))


def facts(*headers: Header, person: Person = Person(), asked: Priority | None = None, **told: Any) -> Facts:  # noqa: B008
    """What is known of a study of two series' images, sent by CT1 to MAIN at noon of a Saturday."""
    given = headers or (Header(modality="CT", image=True),)
    about = {"called_aets": ["MAIN"], "calling_aets": ["CT1"], "at": NOON} | told
    return facts_of([(f"1.{n}", one) for n, one in enumerate(given)], person, asked=asked, **about)


def condition(text: str) -> Condition:
    parsed = Condition.parse(text)
    assert isinstance(parsed, Condition), parsed
    return parsed


def rules(text: str) -> tuple[Route, ...]:
    parsed = parse_rules(text, NAMES)
    assert isinstance(parsed, tuple), parsed
    return parsed


def faults(text: str) -> list[tuple[int, int, str]]:
    parsed = parse_rules(text, NAMES)
    assert isinstance(parsed, list)
    return [(fault.line, fault.column, fault.why) for fault in parsed]


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ('called_aet == "MAIN" && "CT1" in calling_aets', True),
        ('modality == "CT"', True),
        ('modalities == ["MR"]', False),
        ("images == 1 && series == 1 && unreadable == 0", True),
        ('time >= "18:00" || time < "07:00" || weekday in ["sat", "sun"]', True),
        ('weekday == "fri"', False),
        ('modality.matches("^(CT|MR)$") && called_aet.startsWith("MA")', True),
        ('calling_aets.exists(title, title.endsWith("1"))', True),
        # Neither of a pair of opposites is true of what is not known.
        ("age >= 18", None),
        ("!(age >= 18)", None),
        ("age < 18", None),
        ('body_part != "CHEST"', None),
        ('!("CHEST" in body_parts)', None),
        ('priority == "stat"', None),
        # The other side settles it.
        ('age >= 18 || modality == "CT"', True),
        ('age >= 18 && modality == "MR"', False),
        ('"age" in known ? age >= 18 : true', True),
        ('!("sex" in known)', True),
        # What fails when it is worked out is not decided.
        ("images / series * 0 == 1 % (images - 1)", None),
        ("[1].exists(n, int(called_aet) > n)", None),
    ],
)
def test_a_condition_is_true_false_or_undecided(text: str, holds: bool | None) -> None:
    assert condition(text).holds(facts()) is holds


def test_one_expression_cannot_work_for_ever() -> None:
    nested = "true"
    for name in "abcdefgh":
        nested = f"known.all({name}, {nested})"
    assert condition(nested).holds(facts()) is None


def test_what_differs_between_images_has_no_single_value() -> None:
    known = facts(Header(modality="PT", image=True), Header(modality="CT", image=True))
    assert condition('modality == "CT"').holds(known) is None
    assert condition('modality != "CT"').holds(known) is None
    assert condition('modalities == ["CT", "PT"]').holds(known)
    assert "differs within the study: CT, PT; use modalities" in condition('modality == "CT"').why_not(known)


def test_objects_without_pixels_do_not_blur_the_modality() -> None:
    known = facts(Header(modality="MG", image=True), Header(modality="SR"), Header(unreadable="broken"))
    assert condition('modality == "MG" && images == 1 && series == 3 && unreadable == 1').holds(known)
    assert condition('modality == "SR"').holds(facts(Header(modality="SR")))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('"ER" in called_aets', '"ER" in called_aets is false: called_aets is ["MAIN"]'),
        ('modality == "CT" && images > 5', "images > 5 is false: images is 1"),
        ('(modality == "MR" || age < 2)', 'modality == "MR" is false: modality is "CT"; and age < 2 cannot be decided'),
        ('age > 3 && called_aet == "X"', 'called_aet == "X" is false: called_aet is "MAIN"'),
        ('age > 3 && modality == "CT"', "age > 3 cannot be decided: age stands in no header"),
        ('modality == "x && y" // a || b', 'modality == "x && y" // a || b is false: modality is "CT"'),
        ("images > 3 ? true : false && true", "images > 3 ? true : false && true is false: images is 1"),
        ("images / (images - 1) > 0", "images / (images - 1) > 0 cannot be decided: it fails when it is worked out"),
    ],
)
def test_why_a_condition_does_not_hold_names_the_part_and_the_values(text: str, why: str) -> None:
    assert condition(text).why_not(facts()).startswith(why)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('calld_aet == "X"', Fault(1, 1, "there is no attribute calld_aet; did you mean called_aet?")),
        ("modality == CT", Fault(1, 13, 'there is no attribute CT; a text stands in quotes: "CT"')),
        ('age > 3 &&\n  len(known) > "x"', Fault(2, 3, "there is no function len; known are contains")),
        ('age > "3"', Fault(1, 5, "> does not go with a whole number and text")),
        ("age >", Fault(1, 6, "something is missing at the end")),
        ("", Fault(1, 1, "something is missing at the end")),
        ("age", Fault(1, 1, "a condition is true or false, and this is a whole number")),
        ('station.matches("(")', Fault(1, 17, '"(" is no regular expression (RE2)')),
        ("age = 3", Fault(1, 5, "token recognition error")),
        ("size(age) > 1", Fault(1, 1, "size does not go with a whole number")),
    ],
)
def test_a_wrong_condition_is_refused_with_its_place(text: str, fault: Fault) -> None:
    parsed = Condition.parse(text)
    assert isinstance(parsed, list)
    assert (parsed[0].line, parsed[0].column) == (fault.line, fault.column)
    assert parsed[0].why.startswith(fault.why)


@pytest.mark.parametrize("text", ["__import__('os')", "open('/etc/passwd')", "known.__class__ == 1", "exec('1')"])
def test_nothing_of_python_can_be_reached(text: str) -> None:
    assert isinstance(Condition.parse(text), list)


ATOMS = st.sampled_from(
    ['modality == "CT"', "images > 1", "age > 40", '"F" == sex', "series < 3", 'called_aet == "ER"', "true", "false"]
)
CONDITIONS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.builds("({} && {})".format, inner, inner),
        st.builds("({} || {})".format, inner, inner),
        st.builds("!({})".format, inner),
    ),
    max_leaves=8,
)
STUDIES = st.builds(
    facts,
    st.builds(Header, modality=st.sampled_from(["", "CT", "MG"]), image=st.booleans()),
    person=st.builds(Person, age=st.sampled_from([None, 0, 50]), sex=st.sampled_from(["", "F", "M"])),
    called_aets=st.sampled_from([[], ["ER"], ["ER", "MAIN"]]),
)


@given(CONDITIONS, STUDIES)
def test_a_condition_that_does_not_hold_can_say_why(text: str, known: Facts) -> None:
    parsed = condition(text)
    holds = parsed.holds(known)
    assert condition(f"!({text})").holds(known) == (None if holds is None else not holds)
    if not holds:
        assert parsed.why_not(known)


@given(st.lists(st.tuples(CONDITIONS, st.sampled_from(list(Action))), min_size=1, max_size=5), STUDIES)
def test_the_first_route_that_matches_decides(rows: list[tuple[str, Action]], known: Facts) -> None:
    routes = tuple(Route(f"r{n}", condition(text), action) for n, (text, action) in enumerate(rows))
    decision = decide(routes, known, "1.2.3")
    matching = [route for route in routes if route.condition and route.condition.holds(known) is True]
    assert decision.route == (matching[0].name if matching else None)
    looks = list(explain(routes, known))
    assert [look.route for look in looks if look.matched] == [route.name for route in matching[:1]]
    before = len(routes) if not matching else routes.index(matching[0])
    assert all(look.matched is False and look.why for look in looks[:before])
    assert all(look.matched is None for look in looks[before + 1 :])
    assert bool(decision.ignored) == (not matching or decision.action is Action.OFF)


TARGETS = st.builds(
    Target,
    st.text(min_size=1, max_size=8),
    st.none() | st.text(max_size=8),
    st.none() | st.sampled_from([("en",), ("zh", "en")]),
)
DECISIONS = st.builds(
    Decision,
    route=st.none() | st.text(max_size=8),
    action=st.sampled_from(list(Action)),
    priority=st.sampled_from(list(Priority)),
    plan=st.none() | st.text(max_size=8),
    destinations=st.none() | st.lists(TARGETS, max_size=3).map(tuple),
    engine=st.none() | st.text(max_size=8),
    sampled=st.booleans(),
)


@given(DECISIONS)
def test_a_decision_survives_json(decision: Decision) -> None:
    assert Decision.from_json(decision.to_json()) == decision


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"destinations": 3}', '{"action": "x", "destinations": null}'])
def test_what_is_no_decision_is_refused(text: str) -> None:
    with pytest.raises(NodeError, match="a decision in the ledger"):
        Decision.from_json(text)


UIDS = st.integers(1, 10**30).map(lambda number: f"2.25.{number}")


@given(UIDS, st.floats(0, 100), st.floats(0, 100))
def test_a_study_of_a_sample_is_of_every_larger_one(uid: str, one: float, other: float) -> None:
    small, large = sorted((one, other))
    assert in_sample(uid, "route", small) <= in_sample(uid, "route", large)
    assert in_sample(uid, "route", 100)
    assert not in_sample(uid, "route", 0)


def test_a_sample_is_the_share_that_was_asked_for() -> None:
    uids = [f"1.2.840.{number}" for number in range(20_000)]
    taken = [uid for uid in uids if in_sample(uid, "chest", 10)]
    assert 1_850 < len(taken) < 2_150  # 10 %, five standard deviations
    assert taken == [uid for uid in uids if in_sample(uid, "chest", 10)]
    both = sum(in_sample(uid, "mammography", 10) for uid in taken)
    assert 100 < both < 300  # another route's sample is another one


def test_a_route_says_everything_that_happens() -> None:
    (route,) = rules(
        """
        [[routes]]
        name = "chest"
        action = "shadow"
        priority = "high"
        plan = "chest-xray"
        destinations = ["archive", { name = "pacs", profile = "minimal", languages = ["zh", "en"] }]
        engine = "large"
        sample = 100
        """
    )
    assert route.decide("1.2.3", Priority.STAT) == Decision(
        route="chest",
        action=Action.SHADOW,
        priority=Priority.HIGH,
        plan="chest-xray",
        destinations=(Target("archive"), Target("pacs", "minimal", ("zh", "en"))),
        engine="large",
    )


def test_an_entry_point_asks_for_a_priority_and_may_name_the_route() -> None:
    routes = rules('[[routes]]\nname = "ct"\nwhen = \'modality == "CT"\'\n[[routes]]\nname = "rest"\naction = "off"')
    assert decide(routes, facts(), "1", asked=Priority.STAT).priority is Priority.STAT
    assert decide(routes, facts(), "1").priority is Priority.ROUTINE
    assert decide(routes, facts(), "1", named="rest").ignored == "route rest is off"
    assert [look.matched for look in explain(routes, facts(), "rest")] == [None, True]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", (1, 1, "a file of rules is [[routes]] tables alone")),
        ('\n[[route]]\nname = "x"', (2, 1, "there is no such key: route; a file of rules is [[routes]] tables alone")),
        ("routes = 3", (1, 1, "a file of rules is")),
        ("[[routes]]\nname = 'a\n", (3, 1, "not TOML")),
        ("[[routes]]\nname = ", (2, 1, "not TOML")),
        ('# first\n[[routes]]\nwhen = "true"', (2, 1, "name: is missing")),
        ('[[routes]]\nname = "a b"', (2, 9, "name: is 1 to 64 letters")),
        ('[[routes]]\nname = "a"\n[[routes]]\nname = "a"', (4, 9, "two routes have the name a")),
        ('[[routes]]\nname = "a"\npriorty = "stat"', (3, 12, "there is no key priorty; did you mean priority?")),
        ('[[routes]]\nname = "a"\naction = "of"', (3, 11, "action: Input should be 'read', 'shadow' or 'off'")),
        ('[[routes]]\nname = "a"\nsample = 101', (3, 1, "sample: Input should be less than or equal to 100")),
        (
            '[[routes]]\nname = "a"\nplan = "mamography"',
            (3, 9, "there is no plan mamography; did you mean mammography"),
        ),
        (
            '[[routes]]\nname = "a"\ndestinations = ["pacs", "x"]',
            (3, 26, "there is no destination x; known are archive"),
        ),
        ('[[routes]]\nname = "a"\ndestinations = "pacs"', (3, 17, "destinations: should be a list")),
        ('[[routes]]\nname = "a"\ndestinations = ["pacs", "pacs"]', (3, 18, "the destination pacs is named twice")),
        (
            '[[routes]]\nname = "a"\ndestinations = [\n  { name = "pacs", profile = "viewr" },\n]',
            (4, 31, "there is no output profile viewr; did you mean viewer?"),
        ),
        (
            '[[routes]]\nname = "a"\nwhen = "called_aet == \\"X\\" && agee > 3"',
            (3, 32, "when: there is no attribute agee; did you mean age?"),
        ),
        (
            "[[routes]]\nname = 'a'\nwhen = '''\n  images > 1\n  && agee > 3'''",
            (5, 6, "when: there is no attribute agee; did you mean age?"),
        ),
        (
            '[[routes]]\r\nname = "a"\r\nwhen = """\r\n  images > 1 \\\r\n  && agee > 3"""',
            (5, 6, "when: there is no attribute agee; did you mean age?"),
        ),
    ],
)
def test_a_fault_has_its_line_and_column(text: str, found: tuple[int, int, str]) -> None:
    line, column, why = faults(text)[0]
    assert (line, column) == found[:2]
    assert why.startswith(found[2])


def test_every_fault_is_told(tmp_path: Path) -> None:
    path = tmp_path / "routes.toml"
    path.write_text('[[routes]]\nname = "a"\nwhen = "agee > 1"\nplan = "x"\n[[routes]]\nwhen = "age"\nsample = -1\n')
    assert [fault[:2] for fault in faults(path.read_text())] == [(3, 9), (4, 9), (5, 1), (6, 9), (7, 1)]
    with pytest.raises(SettingsError, match=r"routes\.toml:3:9: when: there is no attribute agee") as caught:
        load_rules(path, NAMES)
    assert "routes.toml:7:1" in str(caught.value)


@given(st.text(max_size=60))
def test_no_text_makes_the_parser_fail(text: str) -> None:
    for parsed in (parse_rules(text, NAMES), parse_rules(f"[[routes]]\nname = 'a'\nwhen = '''{text}'''", NAMES)):
        lines = text.count("\n") + 5
        assert all(1 <= fault.line <= lines and fault.column >= 1 for fault in parsed if isinstance(fault, Fault))


def mammogram(**changes: Any) -> Dataset:
    view = Dataset()
    view.CodeValue, view.CodingSchemeDesignator, view.CodeMeaning = "399368009", "SCT", "medio-lateral oblique"
    about = {
        "Modality": "MG",
        "ImageType": ["ORIGINAL", "PRIMARY"],
        "BodyPartExamined": "Breast",
        "ImageLaterality": "L",
        "ViewCodeSequence": Sequence([view]),
        "StationName": "MAMMO1",
        "ManufacturerModelName": "Selenia",
        "StudyDescription": "Screening mammography",
        "SeriesDescription": "L MLO",
        "PatientSex": "f",
        "PatientBirthDate": "19700401",
    }
    return image(**about | changes)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_a_header_is_read_as_far_as_rules_need_it(tmp_path: Path, syntax: Any) -> None:
    dataset = mammogram()
    dataset.file_meta.TransferSyntaxUID = syntax
    path = written(tmp_path, dataset)
    header = read_header(path, str(syntax))
    assert header == header_of(dataset)
    assert header == Header("MG", "BREAST", "MLO", "L", "tests", "Selenia", "MAMMO1", ("ORIGINAL", "PRIMARY"), True)
    assert Header.from_json(header.to_json()) == header
    assert read_person([(path, str(syntax))]) == person_of([dataset])
    assert person_of([dataset]) == Person(55, "F", "Screening mammography", ("L MLO",))


def test_the_ledger_gets_nothing_of_the_patient(tmp_path: Path) -> None:
    path = written(tmp_path, mammogram(patient="ROE^JANE", AccessionNumber="ACC77"))
    kept = read_header(path, str(ExplicitVRLittleEndian)).to_json()
    for secret in ("ROE", "P1", "ACC77", "1970", "Screening", "L MLO", '"F"', "55"):
        assert secret not in kept
    assert set(json.loads(kept)) <= set(Header.__dataclass_fields__)


@pytest.mark.parametrize("damage", ["gone", "empty", "noise", "short"])
def test_a_header_that_cannot_be_read_says_so(tmp_path: Path, damage: str) -> None:
    path = written(tmp_path, mammogram())
    whole = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "noise": b"x" * 900, "short": whole[:140]}[damage])
    header = read_header(path, str(ExplicitVRLittleEndian))
    assert header.unreadable
    assert header == Header(unreadable=header.unreadable)
    known = facts(Header(modality="MG", image=True), header)
    assert condition('modality == "MG" && unreadable == 1').holds(known)
    assert read_person([(path, str(ExplicitVRLittleEndian))]).age is None


def test_the_page_lists_every_attribute() -> None:
    page = PAGE.read_text("utf-8")
    assert [name for name in ATTRIBUTES if f"`{name}`" not in page] == []


PAGE = Path(__file__).parents[2] / "deploy" / "ROUTING.md"
MAMMOGRAM = Header(modality="MG", image=True)
CHEST = Header(modality="DX", body_part="CHEST", image=True)
NIGHT = NOON.replace(day=18, hour=3)
MONDAY = NOON.replace(day=18)


def example(name: str) -> tuple[Route, ...]:
    """Rules of the page."""
    found = re.search(rf"```toml\n# routes\.toml: {name}\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert found
    return rules(found[1])


def test_every_example_of_the_page_is_tried() -> None:
    names = re.findall(r"# routes\.toml: (\S+)", PAGE.read_text("utf-8"))
    assert names == ["emergency", "shadow", "mammography", "off-hours"]
    entries = re.search(r"```toml\n# medrega-pacs\.toml\n(\[\[entries\]\].*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert entries
    settings = Settings(**tomllib.loads(entries[1]))
    assert asked_priority(settings, ["ER", "MEDREGA"]) is Priority.STAT
    assert asked_priority(settings, ["MEDREGA"]) is None


@pytest.mark.parametrize(
    ("name", "known", "route", "action", "priority"),
    [
        ("emergency", facts(called_aets=["ER"]), "emergency", "read", "stat"),
        ("emergency", facts(), "everything-else", "read", "routine"),
        ("shadow", facts(Header(modality="CT", station="CT5", image=True)), "new-scanner", "shadow", "routine"),
        ("shadow", facts(calling_aets=["CT5"]), "new-scanner", "shadow", "routine"),
        ("shadow", facts(Header(modality="CT", station="CT4", image=True)), "everything-else", "read", "routine"),
        ("mammography", facts(MAMMOGRAM, person=Person(age=40)), "mammography", "read", "routine"),
        ("mammography", facts(MAMMOGRAM, person=Person(age=39)), None, "off", "routine"),
        ("mammography", facts(MAMMOGRAM), "mammography-without-age", "read", "routine"),
        ("off-hours", facts(CHEST), "chest-off-hours", "read", "high"),
        ("off-hours", facts(CHEST, at=NIGHT), "chest-off-hours", "read", "high"),
        ("off-hours", facts(CHEST, at=MONDAY), "chest", "read", "low"),
        ("off-hours", facts(MAMMOGRAM), "everything-else", "read", "routine"),
        (
            "off-hours",
            facts(Header(modality="CT", image_types=("ORIGINAL", "LOCALIZER"), image=True)),
            "localizers-alone",
            "off",
            "routine",
        ),
        (
            "off-hours",
            facts(Header(modality="CR", image=True), person=Person(study_description="THORAX 2 E."), at=NIGHT),
            "chest-off-hours",
            "read",
            "high",
        ),
    ],
)
def test_the_examples_of_the_page_do_what_it_says(
    name: str, known: Facts, route: str | None, action: str, priority: str
) -> None:
    decision = decide(example(name), known, "1.2.3")
    assert (decision.route, decision.action, decision.priority) == (route, action, priority)


def test_the_page_s_mammograms_go_to_one_pacs_in_two_languages() -> None:
    decision = decide(example("mammography"), facts(MAMMOGRAM, person=Person(age=61)), "1.2.3")
    assert decision.plan == "mammography"
    assert decision.destinations == (Target("pacs", "viewer", ("zh", "en")),)
    decisions = [decide(example("off-hours"), facts(CHEST, at=MONDAY), f"1.2.{n}") for n in range(300)]
    assert 10 < sum(decision.sampled for decision in decisions) < 60


@pytest.mark.filterwarnings("ignore")  # some of these files are wrong on purpose
def test_a_header_is_the_same_by_the_short_way_and_by_the_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    files = sorted((Path(pydicom.data.__file__).parent / "test_files").glob("*.dcm"))
    syntaxes = {path: str(read_file_meta_info(path).get("TransferSyntaxUID", "")) for path in files if is_dicom(path)}
    short = {path: read_header(path, syntax) for path, syntax in syntaxes.items()}
    assert sum(not header.unreadable for header in short.values()) > 20
    monkeypatch.setattr("dicom_node.routing.header.excerpt", lambda *_: None)
    assert {path: read_header(path, syntax) for path, syntax in syntaxes.items()} == short


def test_a_time_zone_that_there_is_not_is_refused() -> None:
    assert Settings(routing={"time_zone": "Asia/Shanghai"}).routing.time_zone == "Asia/Shanghai"
    with pytest.raises(ValueError, match="no time zone that this machine knows"):
        Settings(routing={"time_zone": "Mars/Base"})


def test_rules_see_the_clock_of_their_zone() -> None:
    settings = Settings(routing={"time_zone": "Asia/Shanghai"})
    complete = datetime(2027, 1, 15, 22, 30, tzinfo=UTC)
    known = facts(at=time_of_day(settings, complete))
    assert condition('time == "06:30" && weekday == "sat"').holds(known)
    assert time_of_day(settings, NOON).isoformat() == "2027-01-16T12:30:00+08:00"


LONG = 80 * "x"
"""None of the words below."""


@given(st.text(max_size=70), st.text(max_size=70))
def test_no_word_of_a_header_keeps_a_rule_from_being_decided(station: str, description: str) -> None:
    dataset = Dataset()
    dataset.add_new("StationName", "SH", station.replace("\\", ""))
    dataset.add_new("StudyDescription", "LO", description.replace("\\", "") + "\udce4")
    known = facts(header_of(dataset), person=person_of([dataset]))
    assert condition(
        f'called_aet == "MAIN" && !(study_description == "{LONG}") && station != "{LONG}" || !("station" in known)'
    ).holds(known)
    assert Header.from_json(json.dumps({"station": "x", "of a later version": 3})) == Header(station="x")
