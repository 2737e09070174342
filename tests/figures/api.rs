//! The API server alone, in a process of its own, with the objects of a thousand databases and two hundred watches.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dbctl::sandbox::api::{ApiConfig, serve};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::objects::{self, Object};
use super::{Outcome, status_field};

/// The argument that makes this program the server.
pub const SERVER: &str = "--serve-api";
const TOKEN: &str = "figures";

/// Clients that fill the server at once.
const FILLERS: usize = 16;
/// Writes that are measured.
const WRITES: usize = 500;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// How many databases: `FIGURES_DATABASES`, else a thousand.
pub fn databases() -> usize {
    std::env::var("FIGURES_DATABASES").ok().and_then(|text| text.parse().ok()).unwrap_or(1000)
}

/// Serves until standard input ends.
pub fn be_server(directory: &Path) -> Outcome<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(cores.min(4)).enable_all().build()?;
    runtime.block_on(async {
        let address = (Ipv4Addr::LOCALHOST, 0).into();
        let config = ApiConfig::new(directory.to_owned(), address, Ipv4Addr::new(127, 253, 255, 0), TOKEN);
        let stop = CancellationToken::new();
        let running = serve(config, stop.clone()).await?;
        println!("{}", running.address);
        let _ = tokio::task::spawn_blocking(|| std::io::stdin().lines().count()).await;
        stop.cancel();
        Ok(running.finished().await?)
    })
}

struct Server {
    child: Child,
    url: String,
    http: reqwest::Client,
}

impl Server {
    fn start(directory: &Path) -> Outcome<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(SERVER)
            .arg(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut line)?;
        let http = reqwest::Client::builder().tcp_nodelay(true).build()?;
        Ok(Self { child, url: format!("http://{}", line.trim()), http })
    }

    fn resident(&self) -> Outcome<f64> {
        Ok(status_field(self.child.id().into(), "VmRSS")? as f64 / 1e3)
    }

    /// The processor time that it has used.
    fn processor(&self) -> Result<Duration, Error> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields = stat.rsplit_once(')').ok_or("no name")?.1.split_whitespace();
        // utime and stime: the fourteenth and fifteenth of all, in hundredths of a second.
        let ticks = fields.skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
        Ok(Duration::from_millis(ticks * 10))
    }

    async fn send(&self, method: &str, path: &str, body: Option<&Value>) -> Result<bytes::Bytes, Error> {
        let request = self.http.request(method.parse()?, format!("{}{path}", self.url)).bearer_auth(TOKEN);
        let request = if let Some(body) = body { request.json(body) } else { request };
        let response = request.send().await?;
        let status = response.status();
        let bytes = response.bytes().await?;
        if status.is_success() {
            Ok(bytes)
        } else {
            Err(format!("{method} {path}: {status}: {}", String::from_utf8_lossy(&bytes)).into())
        }
    }

    async fn make(&self, object: &Object) -> Result<(), Error> {
        self.send("POST", &object.path, Some(&object.body)).await?;
        if let Some(status) = &object.status {
            let mut body = object.body.clone();
            body["status"] = status.clone();
            let name = body["metadata"]["name"].as_str().unwrap_or_default();
            let path = format!("{}/{name}/status", object.path);
            self.send("PUT", &path, Some(&body)).await?;
        }
        Ok(())
    }
}

/// Measures, and prints what came out.
pub fn measure() -> Outcome<()> {
    let directory = tempfile::Builder::new().prefix("dbctl-api-").tempdir_in("/tmp")?;
    let mut server = Arc::new(Server::start(directory.path())?);
    let runtime = tokio::runtime::Runtime::new()?;
    let outcome = runtime.block_on(all(&server, directory.path())).map_err(|error| error.to_string().into());
    runtime.shutdown_background();
    if let Some(server) = Arc::get_mut(&mut server) {
        drop(server.child.stdin.take());
        server.child.wait()?;
    }
    outcome
}

/// How long the disk alone takes to keep a page: no write can be acknowledged sooner.
fn disk(directory: &Path) -> Result<Vec<Duration>, Error> {
    let file = std::fs::File::create(directory.join("disk"))?;
    let page = [7; 4096];
    let mut took = Vec::new();
    for round in 0..200 {
        let began = Instant::now();
        file.write_all_at(&page, round % 64 * 4096)?;
        file.sync_data()?;
        took.push(began.elapsed());
    }
    Ok(took)
}

async fn all(server: &Arc<Server>, directory: &Path) -> Result<(), Error> {
    println!("the disk alone, 4 KiB and fdatasync: {}", spread(disk(directory)?));
    println!("API server alone, idle: {:.1} MB resident", server.resident().map_err(|e| e.to_string())?);
    let began = Instant::now();
    let made = fill(server).await?;
    println!(
        "made {made} objects of {} databases in {:.1} s: {:.1} MB resident",
        databases(),
        began.elapsed().as_secs_f64(),
        server.resident().map_err(|e| e.to_string())?
    );
    lists(server).await?;
    // As the members of a thousand databases renew what they hold; then as fast as each can.
    for (writers, pause) in [(1, 0), (50, 500), (50, 0)] {
        let (before, began) = (server.processor()?, Instant::now());
        let took = creates(server, writers, Duration::from_millis(pause)).await?;
        let (count, used) = (took.len() as f64, (server.processor()? - before).as_secs_f64());
        println!(
            "create, {writers} writers, {:.0} a second: {}; {:.1} ms of processor time each",
            count / began.elapsed().as_secs_f64(),
            spread(took),
            used * 1e3 / count
        );
    }
    deliveries(server).await?;
    println!("the disk alone, again: {}", spread(disk(directory)?));
    println!("after all that: {:.1} MB resident", server.resident().map_err(|e| e.to_string())?);
    Ok(())
}

async fn fill(server: &Arc<Server>) -> Result<usize, Error> {
    let crd = serde_json::to_value(dbctl::api::crd())?;
    server.send("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", Some(&crd)).await?;
    while server.send("GET", "/apis/db.example.com/v1alpha1/databases", None).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for number in 0..20 {
        let body = json!({"metadata": {"name": objects::namespace(number)}});
        server.send("POST", "/api/v1/namespaces", Some(&body)).await?;
    }
    let tasks: Vec<_> = (0..FILLERS)
        .map(|filler| {
            let server = Arc::clone(server);
            tokio::spawn(async move {
                let mut made = 0;
                for number in (filler..databases()).step_by(FILLERS) {
                    for object in objects::of_database(number) {
                        server.make(&object).await?;
                        made += 1;
                    }
                }
                Ok::<_, Error>(made)
            })
        })
        .collect();
    let mut made = 0;
    for task in tasks {
        made += task.await??;
    }
    Ok(made)
}

async fn lists(server: &Arc<Server>) -> Result<(), Error> {
    let number = databases() / 2;
    let one = format!("labelSelector=db.example.com%2Fdatabase%3D{}", objects::name(number));
    let cases = [
        ("all pods", "/api/v1/pods".to_owned()),
        ("the pods of a namespace", format!("/api/v1/namespaces/{}/pods", objects::namespace(number))),
        ("the pods of a database, by label", format!("/api/v1/pods?{one}")),
        ("the pods of a node, by field", "/api/v1/pods?fieldSelector=spec.nodeName%3Dworker-3".to_owned()),
        ("all databases", "/apis/db.example.com/v1alpha1/databases".to_owned()),
    ];
    for (what, path) in cases {
        let (mut took, mut size) = (Vec::new(), 0);
        for _ in 0..11 {
            let began = Instant::now();
            size = server.send("GET", &path, None).await?.len();
            took.push(began.elapsed());
        }
        println!("list {what} ({:.2} MB): {}", size as f64 / 1e6, spread(took));
    }
    Ok(())
}

/// Creates pods, with so many writers at once that pause after each.
async fn creates(server: &Arc<Server>, writers: usize, pause: Duration) -> Result<Vec<Duration>, Error> {
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let server = Arc::clone(server);
            tokio::spawn(async move {
                let mut took = Vec::new();
                // Not all at the same moment.
                tokio::time::sleep(pause * u32::try_from(writer)? / u32::try_from(writers)?).await;
                for round in 0..WRITES.div_ceil(writers) {
                    let mut object = objects::pod(writer, 0);
                    object.body["metadata"]["name"] =
                        format!("new-{writers}-{}-{writer}-{round}", pause.as_millis()).into();
                    let began = Instant::now();
                    server.send("POST", &object.path, Some(&object.body)).await?;
                    took.push(began.elapsed());
                    tokio::time::sleep(pause).await;
                }
                Ok::<_, Error>(took)
            })
        })
        .collect();
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await??);
    }
    Ok(all)
}

/// What each watch saw when, by the mark in the object.
type Sightings = Arc<Mutex<Vec<(u64, Instant)>>>;

/// Two hundred watches as controllers, kubelets and Patroni hold them, and how soon they hear of a change.
async fn deliveries(server: &Arc<Server>) -> Result<(), Error> {
    let sightings = Sightings::default();
    let mut watches = Vec::new();
    let selector = |number| format!("labelSelector=db.example.com%2Fdatabase%3D{}", objects::name(number));
    for watch in 0..200 {
        let number = watch % 40;
        let namespace = objects::namespace(number);
        let path = match watch % 5 {
            0 => "/api/v1/pods?watch=true".to_owned(),
            1 => format!("/api/v1/pods?watch=true&fieldSelector=spec.nodeName%3Dworker-{number}"),
            2 => format!("/api/v1/namespaces/{namespace}/pods?watch=true"),
            3 => format!("/api/v1/namespaces/{namespace}/pods?watch=true&{}", selector(number)),
            _ => format!("/api/v1/namespaces/{namespace}/configmaps?watch=true&{}", selector(number)),
        };
        watches.push(watch_for(server, path, Arc::clone(&sightings)).await?);
    }
    println!("200 watches: {:.1} MB resident", server.resident().map_err(|error| error.to_string())?);
    let (mut sent, mut answered, mut expected) = (HashMap::new(), HashMap::new(), 0);
    let written = databases().min(40);
    for mark in 0..WRITES as u64 {
        let number = usize::try_from(mark)? % written;
        let patch = json!({"metadata": {"annotations": {"mark": mark.to_string()}}});
        let (namespace, name) = (objects::namespace(number), objects::name(number));
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}-1");
        sent.insert(mark, Instant::now());
        let request = server.http.patch(format!("{}{path}", server.url)).bearer_auth(TOKEN);
        let request = request.header("content-type", "application/merge-patch+json").body(patch.to_string());
        request.send().await?.error_for_status()?;
        answered.insert(mark, Instant::now());
        expected += (0..200).filter(|watch| hears(*watch, number)).count();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let deadline = Instant::now() + Duration::from_secs(30);
    while sightings.lock().map_or(0, |seen| seen.len()) < expected && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let seen = sightings.lock().map_err(|error| error.to_string())?.clone();
    let since = |times: &HashMap<u64, Instant>| {
        seen.iter().filter_map(|(mark, at)| Some(at.saturating_duration_since(*times.get(mark)?))).collect()
    };
    println!(
        "watch delivery, {} of {expected} events, since the write was sent: {}",
        seen.len(),
        spread(since(&sent))
    );
    println!("watch delivery, since the write was answered: {}", spread(since(&answered)));
    println!("200 watches, after: {:.1} MB resident", server.resident().map_err(|error| error.to_string())?);
    for watch in watches {
        watch.abort();
    }
    Ok(())
}

/// Whether that watch is told of the pods of that database.
fn hears(watch: usize, number: usize) -> bool {
    match watch % 5 {
        0 => true,
        1 | 3 => watch % 40 == number,
        2 => objects::namespace(watch % 40) == objects::namespace(number),
        _ => false,
    }
}

async fn watch_for(
    server: &Arc<Server>,
    path: String,
    sightings: Sightings,
) -> Result<tokio::task::JoinHandle<()>, Error> {
    // From now on: what is there already is nothing to wait for.
    let listed = server.send("GET", "/api/v1/nodes", None).await?;
    let listed: Value = serde_json::from_slice(&listed)?;
    let version = listed["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    let url = format!("{}{path}&resourceVersion={version}", server.url);
    let response = server.http.get(url).bearer_auth(TOKEN).send().await?.error_for_status()?;
    Ok(tokio::spawn(async move {
        let mut body = response.bytes_stream();
        let mut rest = Vec::new();
        while let Some(Ok(chunk)) = body.next().await {
            let at = Instant::now();
            rest.extend_from_slice(&chunk);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                if let Some(mark) = mark(&line)
                    && let Ok(mut sightings) = sightings.lock()
                {
                    sightings.push((mark, at));
                }
            }
        }
    }))
}

/// The mark in an event, without reading all of it as JSON: that would be the client's time, not the server's.
fn mark(line: &[u8]) -> Option<u64> {
    const START: &[u8] = b"\"mark\":\"";
    let start = line.windows(START.len()).position(|window| window == START)? + START.len();
    let digits: Vec<u8> = line[start..].iter().copied().take_while(u8::is_ascii_digit).collect();
    String::from_utf8(digits).ok()?.parse().ok()
}

/// The median and the slow end.
fn spread(mut took: Vec<Duration>) -> String {
    took.sort();
    let at = |share: f64| {
        let index = (took.len() as f64 * share) as usize;
        took.get(index.min(took.len().saturating_sub(1))).map_or(0.0, |time| time.as_secs_f64() * 1e3)
    };
    format!("p50 {:.1} ms, p99 {:.1} ms", at(0.5), at(0.99))
}
