//! Large objects that are none of dbctl's, in the namespaces of its databases.

use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};

use super::Error;
use crate::objects;

/// Writes at a time.
const AT_ONCE: usize = 8;

/// Makes that many Secrets and as many ConfigMaps of 64 to 256 KiB.
pub async fn make(client: &Client, count: usize) -> Result<(), Error> {
    let made = stream::iter(0..count).map(|number| one(client, number));
    made.buffer_unordered(AT_ONCE).try_collect::<()>().await
}

/// Takes them away again.
pub async fn remove(client: &Client, count: usize) -> Result<(), Error> {
    let gone = stream::iter(0..count).map(|number| async move {
        let (namespace, name) = (objects::namespace(number), format!("large-{number}"));
        let params = DeleteParams::default();
        Api::<ConfigMap>::namespaced(client.clone(), &namespace).delete(&name, &params).await?;
        Api::<Secret>::namespaced(client.clone(), &namespace).delete(&name, &params).await?;
        Ok(())
    });
    gone.buffer_unordered(AT_ONCE).try_collect::<()>().await
}

async fn one(client: &Client, number: usize) -> Result<(), Error> {
    let namespace = objects::namespace(number);
    // As many bytes in the object: a Secret holds a third more than it was given.
    let size = (64 << 10) + number % 193 * 1024;
    let metadata = ObjectMeta {
        name: Some(format!("large-{number}")),
        labels: Some([("app".to_owned(), "something-else".to_owned())].into()),
        ..ObjectMeta::default()
    };
    let text = format!("{number:08}").repeat(size / 8);
    let map = ConfigMap {
        metadata: metadata.clone(),
        data: Some([("text".to_owned(), text.clone())].into()),
        ..ConfigMap::default()
    };
    let bytes = text.into_bytes().split_off(size / 4);
    let data = Some([("bytes".to_owned(), ByteString(bytes))].into());
    let secret = Secret { metadata, data, ..Secret::default() };
    let params = PostParams::default();
    made(Api::namespaced(client.clone(), &namespace).create(&params, &map).await)?;
    made(Api::namespaced(client.clone(), &namespace).create(&params, &secret).await)?;
    Ok(())
}

/// One that an earlier run left, which did not come to its end, is as good.
fn made<T>(outcome: kube::Result<T>) -> Result<(), Error> {
    match outcome {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        other => Ok(other.map(drop)?),
    }
}
