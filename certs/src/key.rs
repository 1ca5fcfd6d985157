//! A workload's private key, and the certificate signing request (PKCS #10, RFC 2986) made with it.

use std::fmt;

use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType,
};
use zeroize::Zeroizing;

use crate::SpiffeId;

/// The private key of one workload: ECDSA on P-256, which every peer can verify. Its bytes are wiped when it
/// is dropped, and it prints as nothing but its type.
pub struct WorkloadKey {
    pair: Zeroizing<KeyPair>,
}

impl WorkloadKey {
    /// Makes a new key from the system's random source.
    pub fn generate() -> Result<Self, KeyError> {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(KeyError::Generate)?;
        Ok(Self { pair: Zeroizing::new(pair) })
    }

    /// The key as PKCS #8 (RFC 5958) in DER, as TLS libraries take it. Copies are the caller's to wipe.
    pub fn pkcs8_der(&self) -> &[u8] {
        self.pair.serialized_der()
    }

    /// Asks for a certificate in the name of `id`: signed with this key, the ID as the only subject
    /// alternative name, no subject, and the usages of an X.509-SVID leaf (SPIFFE X509-SVID section 4).
    pub fn request(&self, id: &SpiffeId) -> Result<CertificateRequest, KeyError> {
        let uri = id.to_string().try_into().map_err(KeyError::Request)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let request = params.serialize_request(&*self.pair).map_err(KeyError::Request)?;
        Ok(CertificateRequest { der: request.der().to_vec() })
    }
}

impl fmt::Debug for WorkloadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WorkloadKey(..)")
    }
}

/// A signed request for a workload's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateRequest {
    der: Vec<u8>,
}

impl CertificateRequest {
    /// The request in DER, as an authority takes it.
    pub fn der(&self) -> &[u8] {
        &self.der
    }
}

/// Why a key or a request could not be made.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("make a private key")]
    Generate(#[source] rcgen::Error),
    #[error("make a certificate request")]
    Request(#[source] rcgen::Error),
}
