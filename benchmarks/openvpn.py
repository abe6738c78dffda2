"""OpenVPN from the distribution: one UDP tunnel, TLS with a fresh certificate, AES-256-GCM, its own defaults.

Both ends share one self-signed certificate, which is its own authority: enough for two ends that trust each
other, and no weaker on the data path, which is what is measured.
"""

from __future__ import annotations

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from benchmarks.contenders import Daemons

PORT = 1194
CIPHER = "AES-256-GCM"


class OpenVpn(Daemons):
    """OpenVPN in point-to-point mode."""

    name, title = "openvpn", "OpenVPN"

    def start(self) -> None:
        """Start the waiting end, then the dialling one."""
        certificate, key = make_certificate(self.directory)
        common = [
            *("openvpn", "--dev", "tunvpn", "--dev-type", "tun", "--proto", "udp4", "--port", str(PORT)),
            *("--ca", str(certificate), "--cert", str(certificate), "--key", str(key)),
            *("--data-ciphers", CIPHER, "--cipher", CIPHER, "--verb", "1"),
        ]
        address = self.lab.ports("edge")[0].far_address
        near, far = "10.78.0.1", "10.78.0.2"
        self.launch(self.far, [*common, "--tls-server", "--dh", "none", "--ifconfig", far, near])
        self.launch(self.near, [*common, "--tls-client", "--remote", address, "--ifconfig", near, far])


def make_certificate(directory: Path) -> tuple[Path, Path]:
    """Write a self-signed certificate for today and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "benchmark")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = directory / "certificate.pem", directory / "key.pem"
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.touch(mode=0o600)
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return certificate_file, key_file
