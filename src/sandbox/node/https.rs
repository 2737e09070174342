//! HTTPS as probes speak it: encrypted, and whoever answers is believed.

use std::sync::{Arc, LazyLock};

use axum::body::Body;
use http::{HeaderName, HeaderValue, Request, header};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Takes every certificate; that it is the peer's own is checked all the same.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Made once: all probes speak alike.
static CONNECTOR: LazyLock<Result<TlsConnector, Error>> = LazyLock::new(|| {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
});

/// The status code of a GET.
///
/// # Errors
/// In a sentence, where there is none.
pub(super) async fn get(
    host: &str,
    port: u16,
    path: &str,
    headers: &[(String, String)],
) -> Result<u16, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let connector = CONNECTOR.as_ref().map_err(|error| text(error))?;
    let name = ServerName::try_from(host.to_owned()).map_err(|error| text(&error))?;
    let stream = TcpStream::connect((host, port)).await.map_err(|error| text(&error))?;
    let stream = connector.connect(name, stream).await.map_err(|error| text(&error))?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| text(&error))?;
    tokio::spawn(connection);
    let mut request = Request::get(format!("/{path}")).body(Body::empty()).map_err(|error| text(&error))?;
    let sent = request.headers_mut();
    sent.insert(
        header::HOST,
        HeaderValue::from_str(&format!("{host}:{port}")).map_err(|error| text(&error))?,
    );
    sent.insert(header::USER_AGENT, HeaderValue::from_static("kube-probe/1.36"));
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| text(&error))?;
        sent.insert(name, HeaderValue::from_str(value).map_err(|error| text(&error))?);
    }
    let answer = sender.send_request(request).await.map_err(|error| text(&error))?;
    Ok(answer.status().as_u16())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    #[tokio::test]
    async fn a_certificate_of_ones_own_will_do() {
        let made = rcgen::generate_simple_self_signed(vec!["elsewhere".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.into())
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = TlsAcceptor::from(Arc::new(config)).accept(stream).await.unwrap();
            let mut request = vec![0; 1024];
            let count = stream.read(&mut request).await.unwrap();
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
            String::from_utf8_lossy(&request[..count]).into_owned()
        });
        let headers = [("X-Probe".to_owned(), "yes".to_owned())];
        assert_eq!(get("127.0.0.1", port, "healthy?now", &headers).await, Ok(204));
        let request = serving.await.unwrap();
        assert!(request.starts_with("GET /healthy?now HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("x-probe: yes") || request.contains("X-Probe: yes"), "{request}");
    }
}
