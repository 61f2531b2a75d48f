"""Certificates in a config: what `check` says of them, and what comes out."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest

from proxy.config.compile import CertificateFiles, Entrance, compile_text
from proxy.errors import ConfigError
from proxy.routing.table import EndpointTls
from proxy.tls import read_pair
from tests.certificates import ca_file, issue

SERVICE = "services: [{name: web, stable: {endpoints: ['https://s']}}]"


def mistakes(text, base):
    with pytest.raises(ConfigError) as caught:
        compile_text(text, {}, base=base)
    return [f"{problem.line}:{problem.column}: {problem.key}: {problem.message}" for problem in caught.value.problems]


@pytest.fixture
def folder(authority, tmp_path):
    issue(authority, tmp_path, "a.test")
    issue(authority, tmp_path, "b.test", name="b-")
    ca_file(authority, tmp_path)
    return tmp_path


def test_listeners_of_every_kind_stand_side_by_side(folder):
    text = f"""
listen:
  - 127.0.0.1:8080
  - {{address: "127.0.0.1:8443", tls: {{cert: cert.pem, key: key.pem}}}}
  - {{address: "unix:in.sock", proxy_protocol: true}}
  - address: "[::]:8443"
    proxy_protocol: true
    tls: [{{cert: cert.pem, key: key.pem}}, {{cert: b-cert.pem, key: b-key.pem}}]
trusted_proxies: [10.0.0.0/8]
admin: {{tls: {{cert: b-cert.pem, key: b-key.pem}}}}
{SERVICE}
"""
    compiled = compile_text(text, {}, base=folder)
    a = CertificateFiles(folder / "cert.pem", folder / "key.pem")
    b = CertificateFiles(folder / "b-cert.pem", folder / "b-key.pem")
    found = compiled.settings
    assert found.listen == ("127.0.0.1:8080", "127.0.0.1:8443", f"unix:{folder}/in.sock", "[::]:8443")
    assert list(found.entrances.values()) == [Entrance(), Entrance((a,)), Entrance((), True), Entrance((a, b), True)]
    assert found.admin.tls == b
    assert compiled.redacted["listen"][0] == "127.0.0.1:8080"
    assert compiled.redacted["listen"][1]["tls"] == [{"cert": "cert.pem", "key": "key.pem"}]


def test_one_listener_may_be_a_mapping(folder):
    compiled = compile_text(f"listen: {{address: '127.0.0.1:1'}}\n{SERVICE}", {}, base=folder)
    assert compiled.settings.listen == ("127.0.0.1:1",)
    assert compiled.redacted["listen"] == ["127.0.0.1:1"]


def test_files_that_do_not_fit_are_named_with_their_place(folder):
    (folder / "broken.pem").write_text("nothing")
    text = f"""
listen:
  - address: 127.0.0.1:1
    tls:
      - {{cert: cert.pem, key: b-key.pem}}
      - {{cert: broken.pem, key: key.pem}}
admin: {{tls: {{cert: cert.pem, key: gone.pem}}}}
{SERVICE}"""
    begin = "give a PEM file that begins with -----BEGIN CERTIFICATE-----"
    assert mistakes(text, folder) == [
        "5:31: listen[0].tls[0].key: does not belong to the certificate: give the key that its request was made with",
        f"6:16: listen[0].tls[1].cert: holds no certificate: {begin}",
        (
            "7:36: admin.tls.key: cannot be read (no such file or directory): check its path, and its owner and mode; "
            f"relative paths are taken from {folder}"
        ),
    ]


@pytest.mark.parametrize(
    "until,said",
    [
        (timedelta(days=-30), "clients will refuse it"),
        (timedelta(days=5, hours=1), "expires in 5 days: renew it"),
        (timedelta(days=60), None),
    ],
)
def test_dates_are_warned_of(authority, tmp_path, until, said):
    issue(authority, tmp_path, "a.test", until=datetime.fromtimestamp(time.time(), UTC) + until)
    text = f"listen: {{address: '127.0.0.1:1', tls: {{cert: cert.pem, key: key.pem}}}}\n{SERVICE}"
    warnings = [note for note in compile_text(text, {}, base=tmp_path).notes if "tls" in note]
    assert len(warnings) == (said is not None)
    assert all("warning" in note and said in note for note in warnings)


def test_endpoints_with_tls(folder):
    text = """services:
  - name: web
    stable: {endpoints: ["https://S.test", "https://s.test:8443", "http://p.test:443"]}
    endpoint_tls: {ca: ca.pem, server_name: App.internal, cert: cert.pem, key: key.pem}
"""
    (service,) = compile_text(text, {}, base=folder).table.services
    assert [(one.url, one.port, one.tls) for one in service.stable.endpoints] == [
        ("https://s.test", 443, True),
        ("https://s.test:8443", 8443, True),
        ("http://p.test:443", 443, False),
    ]
    pair = read_pair(folder / "cert.pem", folder / "key.pem").pem
    assert service.endpoint_tls == EndpointTls((folder / "ca.pem").read_text(), True, "app.internal", pair)
    assert not any(secret in repr(service) for secret in ("PRIVATE KEY", "BEGIN CERTIFICATE"))


def test_the_proxys_own_certificate_is_checked_too(folder):
    text = SERVICE.replace("]}}]", "]}, endpoint_tls: {cert: cert.pem, key: b-key.pem, ca: key.pem}}]")
    assert [one.partition(": ")[2].partition(":")[0] for one in mistakes(text, folder)] == [
        "services[0].endpoint_tls.key",
        "services[0].endpoint_tls.ca",
    ]


def test_no_verification_is_warned_of(folder):
    text = SERVICE.replace("]}}]", "]}, endpoint_tls: {verify: false}}]")
    assert any("endpoint_tls.verify" in note for note in compile_text(text, {}, base=folder).notes)
