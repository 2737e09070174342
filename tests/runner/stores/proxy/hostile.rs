//! A store that does not know conditions: requests lose theirs, and are signed anew.

use http::header::{AUTHORIZATION, HOST, IF_MATCH, IF_NONE_MATCH};
use http::request::Parts;
use object_store::aws::{AwsAuthorizer, AwsCredential};
use object_store::client::HttpRequestBody;

use crate::stores::{Key, REGION};

/// The body's hash, which stays.
const HASH: &str = "x-amz-content-sha256";

/// Takes the conditions out of a request's head. One without any keeps the signature that it came with.
pub(super) fn without_conditions(head: &mut Parts, key: &Key) {
    let had = [IF_MATCH, IF_NONE_MATCH].map(|name| head.headers.remove(name)).into_iter().flatten().count();
    if had == 0 {
        return;
    }
    let host = head.headers.get(HOST).cloned();
    let authority = host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or_default();
    let mut request =
        http::Request::builder().method(&head.method).uri(format!("http://{authority}{}", head.uri));
    if let Some(headers) = request.headers_mut() {
        headers.clone_from(&head.headers);
        headers.remove(AUTHORIZATION);
    }
    let mut request = request.body(HttpRequestBody::empty()).unwrap();
    let hash = head.headers.get(HASH).and_then(|value| bytes_of(value.as_bytes()));
    let credential = AwsCredential { key_id: key.id.clone(), secret_key: key.secret.clone(), token: None };
    let authorizer = AwsAuthorizer::new(&credential, "s3", REGION).with_sign_payload(hash.is_some());
    authorizer.try_authorize(&mut request, hash.as_deref()).unwrap();
    head.headers.clone_from(request.headers());
    if let Some(host) = host {
        head.headers.insert(HOST, host);
    }
}

/// What hexadecimal text stands for, if it is that.
fn bytes_of(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    text.chunks(2).map(|pair| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?)).collect()
}
