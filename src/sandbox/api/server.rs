//! Starting, dispatching requests, stopping.

use std::collections::BTreeSet;
use std::future::IntoFuture;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Method, StatusCode};
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::access_log::{self, AccessLog};
use super::answer::value_response;
use super::auth::{Authenticator, User};
use super::call::{App, Call};
use super::delete::DeleteOptions;
use super::failure::Failure;
use super::faults::{self, Gate, Peer};
use super::gate::{self, Turned};
use super::rbac::{Attributes, Authorizer, bootstrap};
use super::registry::{Registry, Subresource};
use super::relay::NodeToken;
use super::request::{Query, Target, negotiate};
use super::store::Store;
use super::tls::{self, Authority, Certificates, Port};
use super::update::Edit;
use super::{
    ApiConfig, ApiError, body, cluster_ip, connect, crd, create, delete, discovery, events, logs, node_port,
    openapi, options, read, reviews, scale, subresource, tokens, update, watch,
};

/// Namespaces that are always there.
const NAMESPACES: [&str; 4] = ["default", "kube-node-lease", "kube-public", "kube-system"];
/// The Unix socket in the state directory that answers as the port does, but is never subject to faults.
pub const LOCAL_SOCKET: &str = "api.sock";
/// How long requests may take to end once the server stops.
const DRAIN: Duration = Duration::from_secs(5);

/// What runs then.
pub struct Started {
    /// Where it listens.
    pub address: SocketAddr,
    /// The certificate of its authority, as PEM.
    pub authority: String,
    /// What ends when it has stopped.
    pub task: JoinHandle<Result<(), ApiError>>,
}

/// Starts to serve.
///
/// # Errors
/// Where the files or the address cannot be used.
pub async fn start(config: ApiConfig, stop: CancellationToken) -> Result<Started, ApiError> {
    let app = Arc::new(open(&config, stop.clone())?);
    prepare(&app).await.map_err(|failure| ApiError::Bootstrap(failure.body().to_string()))?;
    let listen = |source| ApiError::Listen { address: config.address, source };
    let gate = Gate::bind(config.address, Arc::clone(&app.faults)).await.map_err(listen)?;
    let address = gate.address();
    let socket = config.state_dir.join(LOCAL_SOCKET);
    let local = faults::local(&socket).map_err(|source| ApiError::File { path: socket, source })?;
    let cleaner = tokio::spawn(crd::clean_up(Arc::clone(&app)));
    let expirer = tokio::spawn(events::expire(Arc::clone(&app)));
    let (authority, certificates) = certificates(&config, address)?;
    let port = Port::new(gate, certificates.server_config()?);
    let renewal = tokio::spawn(certificates.keep_fresh());
    let router = Router::new().fallback(answer).with_state(app);
    let task = tokio::spawn(async move {
        let locally =
            axum::serve(local, router.clone()).with_graceful_shutdown(stop.clone().cancelled_owned());
        let serving = axum::serve(port, router.into_make_service_with_connect_info::<Peer>())
            .with_graceful_shutdown(stop.clone().cancelled_owned());
        let serving = async { tokio::try_join!(serving.into_future(), locally.into_future()) };
        let expired = async {
            stop.cancelled().await;
            tokio::time::sleep(DRAIN).await;
        };
        let result = tokio::select! {
            result = serving => result.map(drop).map_err(ApiError::Serve),
            () = expired => Ok(()),
        };
        stop.cancel();
        renewal.abort();
        cleaner.await?;
        expirer.await?;
        result
    });
    Ok(Started { address, authority, task })
}

/// The authority's certificate, and the server's for every way to name this server.
fn certificates(config: &ApiConfig, address: SocketAddr) -> Result<(String, Arc<Certificates>), ApiError> {
    let now = SystemTime::now();
    let authority = Authority::open(&config.state_dir.join("ca.json"), now)?;
    let certificate = authority.certificate.clone();
    // The first address of the range is that of the `kubernetes` Service.
    let [a, b, c, _] = config.service_prefix.octets();
    let service = IpAddr::from([a, b, c, 1]);
    let names = tls::names([address.ip(), service], &config.names);
    Ok((certificate, Arc::new(Certificates::new(authority, names, now)?)))
}

fn open(config: &ApiConfig, stop: CancellationToken) -> Result<App, ApiError> {
    std::fs::create_dir_all(&config.state_dir)
        .map_err(|source| ApiError::File { path: config.state_dir.clone(), source })?;
    let key = signing_key(&config.state_dir.join("token.key"))?;
    let store = Store::open(&config.state_dir.join("store.redb"))?;
    Ok(App {
        authorizer: Authorizer::new(&store),
        access_log: AccessLog::default(),
        store,
        registry: RwLock::new(Arc::new(Registry::builtin())),
        auth: Authenticator::new(&key, &config.admin_token),
        node_token: NodeToken::new()
            .map_err(|source| ApiError::File { path: "/dev/urandom".into(), source })?,
        service_prefix: config.service_prefix,
        service_length: config.service_length,
        service_ips: Mutex::new(BTreeSet::new()),
        node_ports: Mutex::default(),
        faults: Arc::default(),
        stop,
    })
}

/// The key that signs tokens, made at the first start.
fn signing_key(path: &Path) -> Result<Vec<u8>, ApiError> {
    let failed = |source| ApiError::File { path: path.to_owned(), source };
    match std::fs::read(path) {
        Ok(key) if key.len() >= 32 => return Ok(key),
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let mut key = vec![0; 32];
    SystemRandom::new().fill(&mut key).map_err(|_| failed(std::io::Error::other("no random numbers")))?;
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(path);
    let mut file = file.map_err(failed)?;
    std::io::Write::write_all(&mut file, &key).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    Ok(key)
}

/// Serves the definitions that are there, and makes the namespaces that must be.
async fn prepare(app: &Arc<App>) -> Result<(), Failure> {
    cluster_ip::load(app)?;
    node_port::load(app)?;
    crd::refresh(app)?;
    for (name, _) in app.store.list(crd::STORAGE, "", None).items {
        // A definition whose acceptance was cut short.
        crd::after_write(app, &name).await?;
    }
    let namespaces = app.builtin("", "namespaces")?;
    for name in NAMESPACES {
        if app.store.get(&namespaces.storage, name).is_none() {
            let call = app.internal_call(&namespaces);
            let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            create::make(&call, object, false).await?;
        }
    }
    bootstrap::reconcile(app).await
}

/// Every request: who asks, whether they may, what they get.
async fn answer(State(app): State<Arc<App>>, request: Request) -> Response {
    let peer = request.extensions().get::<ConnectInfo<Peer>>().map(|info| info.0.clone());
    if request.uri().path() != faults::PATH {
        app.faults.meet_anybody(peer.as_ref()).await;
    }
    let asked = Attributes::of_request(request.method(), request.uri());
    let (name, allowed, result) = match gate::caller(&app, request.headers()) {
        Ok(user) => {
            let name = user.username.clone();
            let (allowed, result) = admit(&app, request, user, &asked, peer).await;
            (name, allowed, result)
        }
        Err(Turned { user, failure }) => (user.unwrap_or_default(), false, Err(*failure)),
    };
    let response = result.unwrap_or_else(IntoResponse::into_response);
    app.access_log.count(&name, asked, allowed, response.status());
    response
}

/// Whether somebody who is known may do what they ask, and what comes of it.
async fn admit(
    app: &Arc<App>,
    request: Request,
    user: User,
    asked: &Attributes,
    peer: Option<Peer>,
) -> (bool, Result<Response, Failure>) {
    if asked.path == faults::PATH {
        if !user.is_master() {
            return (false, Err(asked.forbidden(&user, "")));
        }
        return (true, set_faults(app, request).await);
    }
    if let Some(response) = about_itself(app, &asked.path) {
        let verdict = gate::authorize(app, &user, asked);
        return (verdict.is_ok(), verdict.map(|()| response));
    }
    match app.faults.meet(&user.username, asked, peer.as_ref()).await {
        Err(failure) => (gate::authorize(app, &user, asked).is_ok(), Err(failure)),
        Ok(afterwards) => match gate::authorize(app, &user, asked) {
            Err(failure) => (false, Err(failure)),
            Ok(()) => (true, afterwards.instead_of(dispatch(app, request, user, peer.is_none()).await)),
        },
    }
}

async fn set_faults(app: &App, request: Request) -> Result<Response, Failure> {
    let (parts, body) = request.into_parts();
    let bytes = body::read(body).await?;
    faults::answer(&app.faults, &parts.method, &parts.headers, &bytes, app.store.version())
}

async fn dispatch(app: &Arc<App>, request: Request, user: User, exempt: bool) -> Result<Response, Failure> {
    let path = request.uri().path().to_owned();
    let (parts, body) = request.into_parts();
    if parts.method == Method::GET {
        if path.starts_with("/openapi/") {
            negotiate(&parts.headers)?;
            return openapi::get(app, &path);
        }
        if let Some(answer) = discovery::get(&app.registry(), &path, &parts.headers) {
            return answer;
        }
    }
    let raw_query = parts.uri.query().unwrap_or_default().to_owned();
    let mut call = call(app, &path, &raw_query, parts.headers.clone(), user)?;
    call.exempt = exempt;
    if call.subresource.is_some_and(Subresource::connects) {
        return connect::serve(&call, Request::from_parts(parts, body)).await;
    }
    // Requests without an effect do not wait for their body.
    let bytes = match parts.method {
        Method::GET => bytes::Bytes::new(),
        _ => body::read(body).await?,
    };
    options::check(&call, &parts.method)?;
    call.body = bytes.clone();
    if call.subresource.is_some() {
        return on_subresource(call, &parts.method, &raw_query, &bytes).await;
    }
    on_resource(call, &parts.method, &bytes).await
}

/// What the server says about itself.
fn about_itself(app: &App, path: &str) -> Option<Response> {
    match path {
        access_log::PATH => Some(app.access_log.answer()),
        "/healthz" | "/livez" | "/readyz" | "/healthz/ping" | "/livez/ping" | "/readyz/ping" => {
            Some((StatusCode::OK, "ok").into_response())
        }
        "/version" | "/version/" => {
            let version = json!({"major": "1", "minor": "36", "gitVersion": "v1.36.2", "gitCommit": "",
                "gitTreeState": "clean", "buildDate": "2026-11-01T00:00:00Z", "goVersion": "", "compiler": "rustc",
                "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH)});
            Some(value_response(StatusCode::OK, &version))
        }
        _ => None,
    }
}

fn call(app: &Arc<App>, path: &str, query: &str, headers: HeaderMap, user: User) -> Result<Call, Failure> {
    let target = Target::parse(path).ok_or_else(Failure::no_such_path)?;
    let registry = app.registry();
    let resource =
        registry.find(&target.group, &target.version, &target.plural).ok_or_else(Failure::no_such_path)?;
    let subresource = match &target.subresource {
        Some(name) => {
            let found = resource.subresources.iter().find(|sub| sub.name() == name).copied();
            Some(found.ok_or_else(Failure::no_such_path)?)
        }
        None => None,
    };
    // A namespaced object is only found by its namespace, a cluster's object only without one.
    if resource.namespaced != target.namespace.is_some() && (!resource.namespaced || target.name.is_some()) {
        return Err(Failure::no_such_path());
    }
    // What comes from elsewhere is in whatever form it has.
    let foreign = subresource.is_some_and(|sub| sub == Subresource::Log || sub.connects());
    let form = if foreign { Default::default() } else { negotiate(&headers)? };
    Ok(Call {
        app: Arc::clone(app),
        resource: Arc::clone(resource),
        namespace: target.namespace,
        name: target.name,
        subresource,
        query: Query::parse(query),
        body: bytes::Bytes::new(),
        headers,
        form,
        user,
        exempt: false,
    })
}

async fn on_resource(mut call: Call, method: &Method, bytes: &[u8]) -> Result<Response, Failure> {
    if call.resource.create_only {
        return match *method {
            Method::POST if call.name.is_none() && call.namespace.is_some() == call.resource.namespaced => {
                reviews::answer(&call, body::decode(&call.headers, bytes)?)
            }
            _ => Err(Failure::method_not_allowed()),
        };
    }
    match (method, call.name.is_some()) {
        (&Method::GET, _) if call.query.flag("watch") => watch::open(call),
        (&Method::GET, true) => read::get(&call),
        (&Method::GET, false) => read::list(&call),
        (&Method::POST, false) if call.namespace.is_some() == call.resource.namespaced => {
            create::create(&call, call.decode(bytes)?).await
        }
        (&Method::PUT, true) => {
            let object = call.typed(call.decode(bytes)?)?;
            update::update(&call, &Edit::Replace(object)).await
        }
        (&Method::PATCH, true) => update::update(&call, &Edit::patch(&call, bytes)?).await,
        (&Method::DELETE, named) => {
            let options = delete_options(&mut call, bytes)?;
            if named {
                delete::delete(&call, &options).await
            } else if call.namespace.is_some() == call.resource.namespaced {
                delete::delete_collection(&call, &options).await
            } else {
                Err(Failure::method_not_allowed())
            }
        }
        _ => Err(Failure::method_not_allowed()),
    }
}

fn delete_options(call: &mut Call, bytes: &[u8]) -> Result<DeleteOptions, Failure> {
    let body: Option<Value> = if bytes.is_empty() { None } else { Some(body::decode(&call.headers, bytes)?) };
    DeleteOptions::read(call, body.as_ref())
}

async fn on_subresource(call: Call, method: &Method, query: &str, bytes: &[u8]) -> Result<Response, Failure> {
    let Some(sub) = call.subresource else { return Err(Failure::no_such_path()) };
    let decode = || body::decode(&call.headers, bytes);
    match (sub, method) {
        (Subresource::Status | Subresource::Finalize, &Method::GET) => read::get(&call),
        (Subresource::Status | Subresource::Finalize, &Method::PUT) => {
            let object = call.typed(decode()?)?;
            update::update(&call, &Edit::Replace(object)).await
        }
        (Subresource::Status, &Method::PATCH) => update::update(&call, &Edit::patch(&call, bytes)?).await,
        (Subresource::Scale, &Method::GET) => scale::get(&call),
        (Subresource::Scale, &Method::PUT) => scale::update(&call, true, bytes).await,
        (Subresource::Scale, &Method::PATCH) => scale::update(&call, false, bytes).await,
        (Subresource::Binding, &Method::POST) => subresource::bind(&call, &decode()?).await,
        (Subresource::Eviction, &Method::POST) => {
            let eviction = decode()?;
            subresource::evict(&call, &eviction, call.clone()).await
        }
        (Subresource::Token, &Method::POST) => tokens::request(&call, &decode()?),
        (Subresource::Log, &Method::GET) => logs::get(&call, query).await,
        _ => Err(Failure::method_not_allowed()),
    }
}
