"""The systems around the node: each destination, source, worklist and commitment peer, asked for what it is needed for.

Nothing is stored at them, and nobody's data is asked for: queries are for the UID of Verification, which no study has.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from typing import Final

from pydicom.uid import UID
from pynetdicom import build_context
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    BasicTextSRStorage,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EncapsulatedPDFStorage,
    EnhancedSRStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    UnifiedProcedureStepPull,
    Verification,
)

from dicom_node.dicomweb.client import Client, Credentials
from dicom_node.dimse import commitment, scu
from dicom_node.dimse.association import Peer, Timeouts, associate
from dicom_node.dimse.query import Server, find, keys
from dicom_node.dimse.retrieve import move
from dicom_node.dimse.tls import client_context
from dicom_node.doctor.finding import Check, Finding, Outcome, fail, ok, warn
from dicom_node.doctor.reach import SECONDS, place_of, reach
from dicom_node.reading.profiles import output_profiles
from dicom_node.settings import Destination, Settings, Source, TlsSettings
from dicom_node.settings.commitment import CommitmentPeer
from dicom_node.settings.section import is_loopback
from dicom_node.settings.sources import Endpoint
from dicom_node.settings.worklist import Worklist
from sr_writer import OutputProfile

_TIMEOUTS: Final = Timeouts(SECONDS, SECONDS)
_NO_STUDY: Final = str(Verification)


def peer_checks(settings: Settings) -> list[Check]:
    """A check of each peer that the settings name."""
    checks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        *((f"destination {item.name}", partial(_destination, settings, item)) for item in settings.destinations),
        *((f"source {item.name}", partial(_source, settings, item)) for item in settings.sources),
        *((f"worklist {item.name}", partial(_worklist, settings, item)) for item in settings.worklists),
        *(
            (f"commitment-peer {item.aet}", partial(_commitment_peer, settings, item))
            for item in settings.commitment_peers
        ),
    ]
    return [Check(name, look, 8 * SECONDS) for name, look in checks]


def _way(endpoint: Endpoint | CommitmentPeer) -> Iterator[Finding]:
    if isinstance(endpoint, Endpoint) and endpoint.url is not None:
        host, port = place_of(endpoint.url)
        tls = endpoint.tls or (TlsSettings() if endpoint.url.startswith("https") else None)
    else:
        host, port, tls = endpoint.host, endpoint.port or 0, endpoint.tls
    yield from reach(host, port, client_context(tls) if tls is not None else None)


def _reached(found: Iterator[Finding]) -> Iterator[tuple[Finding, bool]]:
    """Each finding, and whether it may go on behind it."""
    for finding in found:
        yield finding, finding.outcome is not Outcome.FAIL


def _destination(settings: Settings, destination: Destination) -> Iterator[Finding]:
    for finding, goes_on in _reached(_way(destination)):
        yield finding
        if not goes_on:
            return
    if destination.url is not None:
        yield from _web(destination, warn)  # it may store and know no queries
        return
    if (destination.port, destination.aet) == (settings.listener.port, settings.listener.aet) and is_loopback(
        destination.host
    ):
        yield fail(
            "it is this node itself: results would come back as studies", "name the archive's own port and title"
        )
        return
    wanted = sop_classes(output_profiles([destination])[destination.name])
    asked = [build_context(Verification), *map(build_context, wanted)]
    if destination.commitment:
        asked.append(commitment.context())
    taken = yield from _associated(settings, destination, asked)
    refused = [UID(uid).name for uid in wanted if uid not in taken]
    if refused:
        words = f"it does not take {', '.join(refused)}, which the profile {destination.profile} sends"
        yield fail(words, "let it take them, or choose another profile for it (minimal: secondary captures alone)")
    else:
        yield ok(f"takes all {len(wanted)} kinds of object of the profile {destination.profile}")
    if destination.commitment and commitment.SOP_CLASS not in taken:
        yield fail(
            "it does not do storage commitment for us", "enter this node there for it, or set commitment = false"
        )
    elif destination.commitment:
        yield ok("does storage commitment")


def _web(endpoint: Endpoint, where_not_found: Callable[[str, str], Finding]) -> Iterator[Finding]:
    """Ask a DICOMweb server for a study that nobody has."""
    credentials = Credentials.read(endpoint.user, endpoint.password_file, endpoint.token_file)
    tls = client_context(endpoint.tls) if endpoint.tls is not None else None
    with Client(endpoint.url or "", credentials, tls=tls, timeouts=_TIMEOUTS) as client:
        seconds = client.verify()
        status, _ = client.exchange("GET", "/studies", query=[("StudyInstanceUID", _NO_STUDY)])
    if status == 404:
        yield where_not_found(f"DICOMweb: there is no /studies below {endpoint.url}", "is the url right?")
    else:
        yield ok(f"DICOMweb: lets us in, and answered in {seconds * 1000:.0f} ms")


def sop_classes(profile: OutputProfile) -> list[str]:
    """SOP classes of what an output profile sends of a greyscale study."""
    region = Comprehensive3DSRStorage if profile.sr_class == "comprehensive-3d" else ComprehensiveSRStorage
    wanted = {
        region: profile.region_sr,
        EnhancedSRStorage: profile.narrative_sr,
        SegmentationStorage: profile.seg,
        GrayscaleSoftcopyPresentationStateStorage: profile.presentation_state,
        SecondaryCaptureImageStorage: profile.secondary_capture,
        EncapsulatedPDFStorage: profile.pdf,
        KeyObjectSelectionDocumentStorage: profile.key_objects,
    }
    return [str(uid) for uid, sent in wanted.items() if sent] or [str(BasicTextSRStorage)]


def _associated(
    settings: Settings, endpoint: Endpoint, contexts: Sequence[PresentationContext]
) -> Generator[Finding, None, set[str]]:
    """Ask for an association and C-ECHO on it; returns the SOP classes that the peer takes."""
    tls = client_context(endpoint.tls) if endpoint.tls is not None else None
    with associate(Peer.of(endpoint), contexts, settings.listener.aet, _TIMEOUTS, tls=tls) as association:
        taken = {str(context.abstract_syntax) for context in association.accepted_contexts}
        yield ok(f"association: {endpoint.aet} takes one from {settings.listener.aet}")
        if str(Verification) not in taken:
            yield warn("it does not take C-ECHO, by which it is asked whether it answers again", "allow it there")
        else:
            status = association.send_c_echo().get("Status")
            if status != scu.SUCCESS:
                said = "is not answered" if status is None else f"is answered with status 0x{status:04X}"
                yield fail(f"C-ECHO {said}", "see the peer's own log")
            else:
                yield ok("C-ECHO is answered")
    return taken


def _source(settings: Settings, source: Source) -> Iterator[Finding]:
    for finding, goes_on in _reached(_way(source)):
        yield finding
        if not goes_on:
            return
    if source.url is not None:
        yield from _web(source, fail)
        return
    model = {
        "move": StudyRootQueryRetrieveInformationModelMove,
        "get": StudyRootQueryRetrieveInformationModelGet,
    }[source.way]
    asked = [build_context(uid) for uid in (Verification, StudyRootQueryRetrieveInformationModelFind, model)]
    taken = yield from _associated(settings, source, asked)
    for uid, name in ((StudyRootQueryRetrieveInformationModelFind, "C-FIND"), (model, f"C-{source.way.upper()}")):
        if uid not in taken:
            yield fail(
                f"it does not take {name} of the study root model", "allow this node to query and retrieve there"
            )
            return
    server = Server(
        Peer.of(source), settings.listener.aet, _TIMEOUTS, client_context(source.tls) if source.tls else None
    )
    nobody = {"StudyInstanceUID": _NO_STUDY}
    find(server, keys("STUDY", nobody))
    yield ok("C-FIND is answered")
    if source.way == "move":
        moved = move(server, keys("STUDY", nobody), settings.listener.aet)
        if moved.status == 0xA801:
            yield fail(f"C-MOVE: {moved.reason}", moved.advice)
        elif moved.status is None:
            yield fail(f"C-MOVE: {moved.reason}", "see the peer's own log")
        elif moved.reason:  # there is nothing to move, which archives say in many ways
            yield ok(f"C-MOVE is answered (status 0x{moved.status:04X} for a study that nobody has)")
        else:
            yield ok(f"C-MOVE is answered: it knows {settings.listener.aet}")


def _worklist(settings: Settings, worklist: Worklist) -> Iterator[Finding]:
    for finding, goes_on in _reached(_way(worklist)):
        yield finding
        if not goes_on:
            return
    if worklist.url is not None:
        yield from _web(worklist, warn)  # it may know workitems and no studies
        return
    asked = [build_context(Verification), build_context(UnifiedProcedureStepPull)]
    taken = yield from _associated(settings, worklist, asked)
    if str(UnifiedProcedureStepPull) in taken:
        yield ok("lets us ask for workitems (UPS Pull)")
    else:
        yield fail("it does not let us ask for workitems (UPS Pull)", "allow this node there")


def _commitment_peer(settings: Settings, peer: CommitmentPeer) -> Iterator[Finding]:
    for finding, goes_on in _reached(_way(peer)):
        yield finding
        if not goes_on:
            return
    tls = client_context(peer.tls) if peer.tls is not None else None
    seconds = scu.echo(Peer(peer.aet, peer.host, peer.port), settings.listener.aet, _TIMEOUTS, tls=tls)
    yield ok(f"C-ECHO is answered in {seconds * 1000:.0f} ms")
