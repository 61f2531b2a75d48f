"""Pairs of certificate and key: read and checked with words that help, and chosen by name."""

from __future__ import annotations

import itertools
import ssl
import subprocess

import pytest

from proxy.tls import WrongPair, by_server_name, chosen, client_context, read_pair, server_context
from tests.certificates import ca_file, issue, shown


@pytest.fixture
def files(authority, tmp_path):
    return issue(authority, tmp_path, "Shop.test", "*.shop.test")


def test_a_pair_knows_its_names_and_dates(files):
    pair = read_pair(files.cert, files.key)
    assert pair.names == ("shop.test", "*.shop.test")
    assert pair.not_before == 946684800.0
    assert pair.out_of_date(pair.not_before - 1) == "the certificate is not valid before 2000-01-01"
    assert pair.out_of_date(pair.not_before) == pair.out_of_date(pair.not_after) == ""
    assert "expired" in pair.out_of_date(pair.not_after + 1)
    assert "PRIVATE" not in repr(pair)


def test_both_may_stand_in_one_file(files):
    files.cert.write_bytes(files.key.read_bytes() + files.cert.read_bytes())
    assert read_pair(files.cert, files.cert).pem == read_pair(files.cert, files.key).pem


def test_a_file_of_another_kind(files, authority, tmp_path):
    other = issue(authority, tmp_path, "x.test", name="other-")
    cases = [
        (files.key, files.key, "cert", "holds no certificate"),
        (files.cert, files.cert, "key", "holds no private key"),
        (files.cert, other.key, "key", "does not belong to the certificate"),
        (tmp_path / "nowhere", files.key, "cert", "cannot be read (no such file or directory)"),
        (files.cert, tmp_path, "key", "cannot be read (is a directory)"),
    ]
    for cert, key, of, what in cases:
        with pytest.raises(WrongPair) as caught:
            read_pair(cert, key)
        assert (caught.value.of, caught.value.what) == (of, what)


def test_text_that_is_broken(files):
    whole = {path: path.read_bytes() for path in (files.cert, files.key)}
    for path, of in ((files.cert, "cert"), (files.key, "key")):
        lines = whole[path].split(b"\n")
        path.write_bytes(b"\n".join([lines[0], *lines[2:]]))
        with pytest.raises(WrongPair) as caught:
            read_pair(files.cert, files.key)
        assert caught.value.of == of
        path.write_bytes(whole[path])


def test_a_key_with_a_passphrase_is_refused_and_nobody_is_asked(files, tmp_path):
    locked = tmp_path / "locked.pem"
    command = ["openssl", "pkey", "-in", files.key, "-aes256", "-passout", "pass:x", "-out", locked]
    subprocess.run(command, check=True, capture_output=True)
    with pytest.raises(WrongPair, match="is encrypted: take the passphrase off"):
        read_pair(files.cert, locked)


def test_a_weak_key_is_refused(tmp_path):
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:1024", "-nodes", "-subj", "/CN=old.test", "-days", "9"]
    subprocess.run([*command, "-keyout", key, "-out", cert], check=True, capture_output=True)
    with pytest.raises(WrongPair, match="is too weak") as caught:
        read_pair(cert, key)
    assert caught.value.of == "cert"


def test_without_alternative_names_the_common_one_counts(tmp_path):
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=Old.test", "-days", "9"]
    subprocess.run([*command, "-keyout", key, "-out", cert], check=True, capture_output=True)
    assert read_pair(cert, key).names == ("old.test",)


def test_an_exact_name_comes_before_a_wildcard():
    first, exact, wild = (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) for _ in range(3))
    by_name = {"a.shop.test": exact, "*.shop.test": wild}
    asked = {
        "a.shop.test": exact,
        "A.Shop.Test.": exact,
        "b.shop.test": wild,
        "shop.test": first,
        "c.b.shop.test": first,
        "": first,
        None: first,
        "*.shop.test": wild,
    }
    assert {name: chosen(by_name, name, first) for name in asked} == asked


def test_contexts_that_were_used_before_show_what_their_new_order_says(authority, tmp_path):
    pairs = [read_pair(*_paths(issue(authority, tmp_path, f"{name}.test", name=name))) for name in "ab"]
    lists = [pairs, pairs[:1], pairs[1:], pairs[::-1]]

    def answers(context):
        found = (shown(context, authority, name, checked=False) for name in ("a.test", "b.test", "else.test", None))
        return [one["subjectAltName"][0][1] for one in found]

    for before, after in itertools.product(lists, repeat=2):
        contexts = {pair: server_context(pair.pem) for pair in pairs}
        accepted = by_server_name([(pair.names, contexts[pair]) for pair in before])
        now = by_server_name([(pair.names, contexts[pair]) for pair in after])
        fresh = by_server_name([(pair.names, server_context(pair.pem)) for pair in after])
        assert answers(now) == answers(fresh)
        if before[0] in after:  # who was accepted before, and speaks only now, gets the same
            assert answers(accepted) == answers(fresh)


def _paths(files):
    return files.cert, files.key


def test_a_client_trusts_the_given_authority_alone(authority, tmp_path):
    one = client_context(ca=str(ca_file(authority, tmp_path)))
    assert one.verify_mode is ssl.CERT_REQUIRED
    assert one.check_hostname
    assert len(one.get_ca_certs()) == 1
    assert client_context(verify=False).verify_mode is ssl.CERT_NONE
    with pytest.raises(OSError):
        client_context(ca=str(tmp_path / "nowhere"))
    (tmp_path / "empty.pem").write_text("")
    with pytest.raises(ssl.SSLError):
        client_context(ca=str(tmp_path / "empty.pem"))
