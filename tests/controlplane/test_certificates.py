"""The certificates in force: as new as their files, and never worse."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from proxy.config.compile import AdminSettings, Entrance, Settings
from proxy.controlplane.certificates import Certificates
from proxy.controlplane.running import needs_restart
from proxy.errors import ConfigError
from proxy.ipc.enclosure import enclosed
from tests.certificates import issue, shown

ADDRESS = "127.0.0.1:8443"


def settings(*files, admin=None, preface=False, address=ADDRESS):
    return Settings(
        listen=(address,),
        workers=1,
        state=None,
        admin=AdminSettings("127.0.0.1:0", (), tls=admin),
        entrances={address: Entrance(files, preface)},
    )


@pytest.fixture
def issued(authority, tmp_path):
    return lambda *names, **how: issue(authority, tmp_path, *names, **how)


def names(certificates):
    with certificates.message() as (_, (fd,)):
        return {address: [of for of, _ in pairs] for address, pairs in enclosed(fd).items()}


def replaced(files, others):
    """Put others' text into the files, the way that renews a certificate."""
    for old, new in ((files.cert, others.cert), (files.key, others.key)):
        fresh = old.with_suffix(".new")
        fresh.write_bytes(new.read_bytes())
        fresh.replace(old)


def kinds(found):
    return [(one.kind, one.reason) for one in found]


RENEWED = [("CertificatesRenewed", "FilesChanged")]
UNUSABLE = [("CertificateProblem", "CertificateUnusable")]


def test_nothing_to_do_without_tls():
    certificates = Certificates(settings())
    assert not certificates.any
    assert certificates.admin is None
    assert certificates.look() == []


def test_what_is_in_force_goes_to_workers_as_it_was_read(issued):
    files = issued("a.test", "*.b.test")
    certificates = Certificates(settings(files))
    files.cert.unlink()
    assert names(certificates) == {ADDRESS: [["a.test", "*.b.test"]]}
    with certificates.message() as (_, (fd,)):
        assert "PRIVATE KEY" in enclosed(fd)[ADDRESS][0][1]


def test_files_that_have_changed_are_read_again(issued):
    files, others = issued("a.test"), issued("b.test", name="other-")
    certificates = Certificates(settings(files))
    assert certificates.look() == []
    replaced(files, others)
    assert kinds(certificates.look()) == RENEWED
    assert names(certificates) == {ADDRESS: [["b.test"]]}
    assert certificates.look() == []


def test_a_touched_file_is_nothing_new(issued):
    files = issued("a.test")
    certificates = Certificates(settings(files))
    os.utime(files.cert, (1, 1))
    assert certificates.look() == []


def test_half_of_a_renewal_is_not_said(issued):
    files, others = issued("a.test"), issued("b.test", name="other-")
    certificates = Certificates(settings(files))
    files.cert.write_bytes(others.cert.read_bytes())
    assert certificates.look() == []
    assert names(certificates) == {ADDRESS: [["a.test"]]}
    files.key.write_bytes(others.key.read_bytes())
    assert kinds(certificates.look()) == RENEWED
    assert names(certificates) == {ADDRESS: [["b.test"]]}


@pytest.mark.parametrize("how", ["gone", "empty", "another key"])
def test_what_cannot_be_used_changes_nothing_and_is_said_once(issued, how):
    files, others = issued("a.test"), issued("b.test", name="other-")
    good = files.key.read_bytes()
    certificates = Certificates(settings(files))
    if how == "gone":
        files.key.unlink()
    else:
        files.key.write_bytes(b"" if how == "empty" else others.key.read_bytes())
    assert [kinds(certificates.look()) for _ in range(5)] == [[], UNUSABLE, [], [], []]
    assert names(certificates) == {ADDRESS: [["a.test"]]}
    files.key.write_bytes(good)
    assert certificates.look() == []
    files.key.unlink()
    assert [kinds(certificates.look()) for _ in range(3)] == [[], UNUSABLE, []]


def test_one_that_runs_out_is_said_once_and_still_shown(issued):
    until = datetime(2030, 1, 1, tzinfo=UTC)
    files = issued("a.test", until=until)
    certificates = Certificates(settings(files))
    assert certificates.look(until.timestamp() - 1) == []
    (found,) = certificates.look(until.timestamp() + 1)
    assert (found.kind, found.reason) == ("CertificateProblem", "CertificateOutOfDate")
    assert found.why == "the certificate expired on 2030-01-01"
    assert (found.file, found.names, found.shown_at) == (str(files.cert), ("a.test",), (ADDRESS,))
    assert certificates.look(until.timestamp() + 2) == []
    assert names(certificates) == {ADDRESS: [["a.test"]]}


def test_the_admin_api_shows_the_new_one_in_the_same_context(issued, authority):
    files, others = issued("a.test"), issued("b.test", name="other-")
    certificates = Certificates(settings(admin=files))
    assert certificates.any
    assert shown(certificates.admin, authority, "a.test")
    replaced(files, others)
    (found,) = certificates.look()
    assert kinds([found]) == RENEWED
    assert (found.names, found.shown_at) == (("b.test",), ("the admin API",))
    assert shown(certificates.admin, authority, "b.test")
    assert names(certificates) == {}


def test_a_missing_file_at_the_start_is_a_mistake_of_the_config(issued):
    files = issued("a.test")
    files.key.unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        Certificates(settings(files))


def test_a_reload_may_name_other_files(issued):
    files, others = issued("a.test"), issued("b.test", name="other-")
    certificates = Certificates(settings(files))
    assert kinds(certificates.take(settings(files, others))) == [("CertificatesRenewed", "ConfigReloaded")]
    assert names(certificates) == {ADDRESS: [["a.test"], ["b.test"]]}
    assert certificates.take(settings(files, others)) == []
    gone, first = certificates.take(settings(others))
    assert kinds([first]) == [("CertificatesRenewed", "FirstOfList")]
    assert (gone.kind, gone.reason, gone.why) == ("CertificatesRemoved", "ConfigReloaded", "")
    assert (gone.file, gone.names, gone.shown_at) == (str(files.cert), ("a.test",), (ADDRESS,))
    assert names(certificates) == {ADDRESS: [["b.test"]]}
    others.cert.unlink()
    certificates.take(settings(others))
    others = replace(others, key=others.key.with_name("nowhere"))
    with pytest.raises(ConfigError):
        certificates.take(settings(others))
    assert names(certificates) == {ADDRESS: [["b.test"]]}


def test_a_reload_that_moves_certificates_says_where_they_are_new_gone_or_first(issued):
    one, two = issued("a.test"), issued("b.test", name="other-")
    at = {"127.0.0.1:1": (one, two), "127.0.0.1:2": (one,)}

    def moved(first, second):
        at.update({"127.0.0.1:1": first, "127.0.0.1:2": second})
        found = certificates.take(everywhere())
        return [(say.kind.removeprefix("Certificates"), say.reason, say.names[0], say.shown_at) for say in found]

    def everywhere():
        entrances = {address: Entrance(files, False) for address, files in at.items()}
        return replace(settings(admin=one), listen=tuple(at), entrances=entrances)

    certificates = Certificates(everywhere())
    assert moved((one, two), (one,)) == []
    before = certificates.shown
    assert moved((two, one), (one,)) == [("Renewed", "FirstOfList", "b.test", ("127.0.0.1:1",))]
    assert certificates.shown != before
    assert moved((two,), (one, two)) == [
        ("Renewed", "ConfigReloaded", "b.test", ("127.0.0.1:1", "127.0.0.1:2")),
        ("Removed", "ConfigReloaded", "a.test", ("127.0.0.1:1",)),
    ]
    assert moved((two,), (two,)) == [
        ("Removed", "ConfigReloaded", "a.test", ("127.0.0.1:2",)),
        ("Renewed", "FirstOfList", "b.test", ("127.0.0.1:2",)),
    ]
    assert names(certificates) == {"127.0.0.1:1": [["b.test"]], "127.0.0.1:2": [["b.test"]]}


def test_tls_that_goes_on_or_off_needs_a_restart(issued):
    files, others = issued("a.test"), issued("b.test", name="other-")
    assert needs_restart(settings(files), settings(others, files)) == []
    assert needs_restart(settings(files, admin=files), settings(files, admin=others)) == []
    assert needs_restart(settings(files), settings()) == ["listen"]
    assert needs_restart(settings(), settings(preface=True)) == ["listen"]
    assert needs_restart(settings(files), settings(files, admin=others)) == ["admin"]
    assert needs_restart(settings(files), settings(files, address="127.0.0.1:1")) == ["listen"]
    certificates = Certificates(settings(files))
    certificates.take(settings())
    assert names(certificates) == {ADDRESS: [["a.test"]]}
