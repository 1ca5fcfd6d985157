//! Keys and requests as an authority sees them: read back by another parser, and by OpenSSL if it is there.

use std::io::Write;
use std::process::{Command, Stdio};

use certs::{SpiffeId, TrustDomain, WorkloadKey};
use rcgen::{
    CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType,
};

const ID: &str = "spiffe://cluster.local/ns/shop/sa/cart";

fn id() -> SpiffeId {
    let trust_domain: TrustDomain = "cluster.local".parse().unwrap();
    SpiffeId::of_workload(&trust_domain, "shop", "cart").unwrap()
}

#[test]
fn a_request_names_the_workload_and_nothing_else() {
    let key = WorkloadKey::generate().unwrap();
    let request = key.request(&id()).unwrap();
    // Verifies the signature, too.
    let read = CertificateSigningRequestParams::from_der(&request.der().into()).unwrap();
    assert_eq!(read.params.subject_alt_names, [SanType::URI(ID.try_into().unwrap())]);
    assert_eq!(read.params.distinguished_name.get(&DnType::CommonName), None);
    assert_eq!(read.params.key_usages, [KeyUsagePurpose::DigitalSignature]);
    let usages = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    assert_eq!(read.params.extended_key_usages, usages);
    assert_eq!(PublicKeyData::algorithm(&read.public_key), &PKCS_ECDSA_P256_SHA256);
}

#[test]
fn a_changed_request_is_not_signed() {
    let key = WorkloadKey::generate().unwrap();
    let mut der = key.request(&id()).unwrap().der().to_vec();
    let at = der.windows(4).position(|w| w == b"cart").unwrap();
    der[at..at + 4].copy_from_slice(b"root");
    let error = CertificateSigningRequestParams::from_der(&der.into()).unwrap_err();
    assert_eq!(error, rcgen::Error::InvalidCertificationRequestSignature);
}

#[test]
fn keys_differ_and_do_not_show() {
    let (one, two) = (WorkloadKey::generate().unwrap(), WorkloadKey::generate().unwrap());
    assert_ne!(one.pkcs8_der(), two.pkcs8_der());
    assert_eq!(format!("{one:?} {:?}", Some(&two)), "WorkloadKey(..) Some(WorkloadKey(..))");
}

#[test]
fn openssl_reads_key_and_request() {
    let key = WorkloadKey::generate().unwrap();
    let request = key.request(&id()).unwrap();
    let args = ["req", "-inform", "DER", "-verify", "-noout", "-text"];
    let Some(text) = openssl(&args, request.der()) else { return };
    assert!(text.contains(&format!("URI:{ID}")), "{text}");
    assert!(text.contains("NIST CURVE: P-256"), "{text}");
    assert!(text.contains("verify OK"), "{text}");
    let text = openssl(&["pkey", "-inform", "DER", "-check", "-noout"], key.pkcs8_der()).unwrap();
    assert!(text.contains("Key is valid"), "{text}");
}

/// What `openssl` prints to either stream, `None` where it is not installed.
fn openssl(args: &[&str], input: &[u8]) -> Option<String> {
    let child = Command::new("openssl")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match child {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        other => other.unwrap(),
    };
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(output.status.success(), "{text}");
    Some(text)
}
