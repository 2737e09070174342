//! One request for a resource, with everything that answering it takes.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use http::HeaderMap;
use jiff::Timestamp;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::access_log::AccessLog;
use super::auth::{Authenticator, User};
use super::failure::Failure;
use super::faults::Faults;
use super::rbac::Authorizer;
use super::registry::{Registry, Resource, Subresource};
use super::relay::NodeToken;
use super::request::{Form, Query};
use super::store::{Draft, Record, Store, StoreError, Write, WriteError};
use crate::sandbox::object::apply::{Writer, default_manager};
use crate::sandbox::object::builtin;

/// What all requests share.
#[derive(Debug)]
pub struct App {
    /// The objects.
    pub store: Store,
    /// What is served; replaced as a whole when definitions change.
    pub registry: RwLock<Arc<Registry>>,
    /// Who may call.
    pub auth: Authenticator,
    /// Who may do what.
    pub authorizer: Authorizer,
    /// What was asked by whom.
    pub access_log: AccessLog,
    /// What this server proves itself with to nodes.
    pub node_token: NodeToken,
    /// The first address of the network that Services live in.
    pub service_prefix: Ipv4Addr,
    /// How many bits of it are the network's.
    pub service_length: u8,
    /// The numbers, in that network, of the Service addresses in use.
    pub service_ips: Mutex<BTreeSet<u32>>,
    /// The node ports in use.
    pub node_ports: Mutex<super::node_port::Used>,
    /// What goes wrong on demand.
    pub faults: Arc<Faults>,
    /// Cancelled when the server stops.
    pub stop: CancellationToken,
}

impl App {
    /// What is served now.
    pub fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.registry.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// A built-in resource of `v1`.
    ///
    /// # Errors
    /// Where there is none of that name, which would be a mistake in this program.
    pub fn builtin(&self, group: &str, plural: &str) -> Result<Arc<Resource>, Failure> {
        self.registry()
            .find(group, "v1", plural)
            .cloned()
            .ok_or_else(|| Failure::internal(format!("no resource {plural}")))
    }

    /// A call the server makes itself, as far as writes need one.
    pub fn internal_call(self: &Arc<Self>, resource: &Arc<Resource>) -> Call {
        Call {
            app: Arc::clone(self),
            resource: Arc::clone(resource),
            namespace: None,
            name: None,
            subresource: None,
            query: Query::default(),
            body: bytes::Bytes::new(),
            headers: HeaderMap::new(),
            form: Form::Object,
            user: User::system("system:apiserver"),
            exempt: true,
        }
    }
}

/// One request.
#[derive(Clone, Debug)]
pub struct Call {
    /// What all requests share.
    pub app: Arc<App>,
    /// What it is about.
    pub resource: Arc<Resource>,
    /// The namespace in the path.
    pub namespace: Option<String>,
    /// The name in the path.
    pub name: Option<String>,
    /// The subresource in the path.
    pub subresource: Option<Subresource>,
    /// The query string.
    pub query: Query,
    /// The body as it came.
    pub body: bytes::Bytes,
    /// The headers.
    pub headers: HeaderMap,
    /// The form the answer is wanted in.
    pub form: Form,
    /// Who asks.
    pub user: User,
    /// Whether faults reach it.
    pub exempt: bool,
}

impl Call {
    /// The name in the path.
    ///
    /// # Errors
    /// 405 where there is none.
    pub fn name(&self) -> Result<&str, Failure> {
        self.name.as_deref().ok_or_else(Failure::method_not_allowed)
    }

    /// The key of the object in the path.
    ///
    /// # Errors
    /// 405 where there is none.
    pub fn key(&self) -> Result<String, Failure> {
        Ok(self.resource.key(self.namespace.as_deref(), self.name()?))
    }

    /// The object in the path as the next write finds it.
    ///
    /// # Errors
    /// 404 where there is none.
    pub fn live(&self) -> Result<(Arc<Record>, Value), Failure> {
        let record = self.app.store.latest(&self.resource.storage, &self.key()?);
        let record = record.ok_or_else(|| match self.name() {
            Ok(name) => Failure::not_found(&self.resource, name),
            Err(failure) => failure,
        })?;
        let value = self.resource.load(&record)?;
        Ok((record, value))
    }

    /// Who is noted as the writer of fields.
    pub fn writer(&self, now: Timestamp) -> Writer {
        let agent = self.headers.get(http::header::USER_AGENT).and_then(|value| value.to_str().ok());
        let manager = self.query.get("fieldManager").map(str::to_owned);
        Writer {
            manager: manager.unwrap_or_else(|| default_manager(agent.unwrap_or_default())),
            subresource: self.subresource.map(Subresource::name).unwrap_or_default().to_owned(),
            api_version: self.resource.name.api_version.to_string(),
            now,
        }
    }

    /// Writes the object of that key, or only says what would come of it where the call is a dry run.
    ///
    /// # Errors
    /// [`WriteError`] where something came between.
    pub async fn commit(
        &self,
        key: &str,
        expect: Option<u64>,
        draft: Option<&Draft>,
    ) -> Result<Option<Arc<Record>>, Refused> {
        if self.query.dry_run()? {
            return Ok(None);
        }
        // Whatever is made must be made in a namespace that stays.
        let guard = self.namespace.as_deref().filter(|_| expect.is_none());
        let write = Write {
            collection: &self.resource.storage,
            key,
            expect,
            draft,
            guard: guard.map(|namespace| ("/namespaces", namespace)),
        };
        Ok(Some(self.app.store.write(write).await?))
    }
}

/// Why a commit did not happen.
#[derive(Debug)]
pub enum Refused {
    /// It was not tried.
    Failure(Failure),
    /// The store said no.
    Write(WriteError),
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl From<WriteError> for Refused {
    fn from(error: WriteError) -> Self {
        Self::Write(error)
    }
}

impl Resource {
    /// A stored object as this resource's version shows it.
    ///
    /// # Errors
    /// Where the store is damaged.
    pub fn load(&self, record: &Record) -> Result<Value, StoreError> {
        let mut value = record.to_value(&self.name)?;
        if self.converted {
            return Ok(builtin::convert(&self.as_stored(value), &self.gvk()));
        }
        if self.custom.is_some() {
            // The schema may be younger than the object.
            let schema = self.schema();
            schema.prune(&mut value);
            schema.default(&mut value);
        }
        Ok(value)
    }

    /// An object as it is stored.
    ///
    /// # Errors
    /// Where it has no metadata.
    pub fn draft(&self, object: &Value) -> Result<Draft, StoreError> {
        if !self.converted {
            return Draft::new(object);
        }
        let core = crate::sandbox::object::Gvk::gvk("", "v1", &self.kind);
        Draft::new(&builtin::convert(object, &core))
    }

    fn as_stored(&self, mut value: Value) -> Value {
        if let Some(fields) = value.as_object_mut() {
            fields.insert("apiVersion".into(), Value::String("v1".into()));
        }
        value
    }
}
