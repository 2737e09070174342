//! How pods reach the API server: where it is, and whom to trust there.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// What a pod's kubeconfig says of the API server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// The URL.
    pub server: String,
    /// The certificates of the authorities to trust, as PEM; none means the system's.
    pub authority: Option<String>,
    /// The name in the server's certificate, where it is not the URL's.
    pub tls_server_name: Option<String>,
    /// Whether any certificate will do.
    pub insecure: bool,
}

impl Access {
    /// A server with an authority of its own.
    pub fn new(server: String, authority: String) -> Self {
        Self { server, authority: Some(authority), ..Self::default() }
    }

    /// As a client of that server, with that configuration, reaches it.
    pub fn of(config: &kube::Config) -> Self {
        let certificates = config.root_cert.iter().flatten().map(|der| pem(der)).collect::<String>();
        Self {
            server: config.cluster_url.to_string().trim_end_matches('/').to_owned(),
            authority: Some(certificates).filter(|text| !text.is_empty()),
            tls_server_name: config.tls_server_name.clone(),
            insecure: config.accept_invalid_certs,
        }
    }
}

fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect::<Vec<_>>();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_trusts_its_pods_trust() {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["a".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let mut config = kube::Config::new("https://10.0.0.1:6443".parse().unwrap());
        assert_eq!(Access::of(&config).authority, None);
        config.root_cert = Some(vec![certificate.der().to_vec()]);
        let access = Access::of(&config);
        assert_eq!(access.server, "https://10.0.0.1:6443");
        assert_eq!(access.authority.unwrap().replace('\r', ""), certificate.pem().replace('\r', ""));
    }
}
