//! Who is let in, by a script of what is known, and by a clock that is moved by hand.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use async_trait::async_trait;
use kube::Client;
use kube::client::Body;
use serde_json::json;

use super::*;

/// Tokens, whose they are, and whether those may read.
#[derive(Default)]
pub struct Script {
    known: Mutex<BTreeMap<String, (String, bool)>>,
    /// What is answered in place of that.
    pub fails: Mutex<Option<ReviewError>>,
    hangs: Mutex<bool>,
    asked: AtomicUsize,
    at_a_time: AtomicUsize,
    most: AtomicUsize,
}

impl Script {
    /// Has a token stand for a user.
    pub fn knows(self, token: &str, user: &str, may_read: bool) -> Self {
        self.known.lock().unwrap().insert(token.to_owned(), (user.to_owned(), may_read));
        self
    }

    fn forgets(&self, token: &str) {
        self.known.lock().unwrap().remove(token);
    }

    fn asked(&self) -> usize {
        self.asked.swap(0, Ordering::Relaxed)
    }
}

#[async_trait]
impl Reviewer for Arc<Script> {
    async fn user(&self, token: &Token) -> Result<Option<UserInfo>, ReviewError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let now = self.at_a_time.fetch_add(1, Ordering::Relaxed) + 1;
        self.most.fetch_max(now, Ordering::Relaxed);
        if *self.hangs.lock().unwrap() {
            std::future::pending::<()>().await;
        }
        tokio::task::yield_now().await;
        self.at_a_time.fetch_sub(1, Ordering::Relaxed);
        if let Some(error) = self.fails.lock().unwrap().clone() {
            return Err(error);
        }
        let known = self.known.lock().unwrap();
        let user = known.get(token.expose()).map(|(user, _)| user.clone());
        Ok(user.map(|user| UserInfo { username: Some(user), ..UserInfo::default() }))
    }

    async fn may_read(&self, user: &UserInfo) -> Result<bool, ReviewError> {
        let known = self.known.lock().unwrap();
        Ok(known.values().any(|(name, may)| Some(name) == user.username.as_ref() && *may))
    }
}

/// Readers by that script, and their clock in seconds.
fn readers(script: &Arc<Script>) -> (Readers<Arc<Script>>, Arc<AtomicU64>) {
    let clock = Arc::new(AtomicU64::new(1000));
    let seconds = clock.clone();
    let now = move || Duration::from_secs(seconds.load(Ordering::Relaxed));
    (Readers::new(script.clone(), now), clock)
}

fn script() -> Arc<Script> {
    Arc::new(Script::default().knows("good", "prometheus", true).knows("other", "somebody", false))
}

fn with(token: &str) -> HeaderMap {
    HeaderMap::from_iter([(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap())])
}

fn forbidden() -> Result<(), Refusal> {
    Err(Refusal::Forbidden("somebody".to_owned()))
}

#[tokio::test]
async fn who_may_read_is_let_in_and_nobody_else() {
    let script = script();
    let (readers, _) = readers(&script);
    assert_eq!(readers.admit(&with("good")).await, Ok(()));
    assert_eq!(readers.admit(&with("other")).await, forbidden());
    assert_eq!(readers.admit(&with("made-up")).await, Err(Refusal::Unknown));
    assert_eq!(script.asked(), 3);
    // Nobody is asked about nothing.
    assert_eq!(readers.admit(&HeaderMap::new()).await, Err(Refusal::Unknown));
    let basic = HeaderMap::from_iter([(header::AUTHORIZATION, "Basic good".parse().unwrap())]);
    assert_eq!(readers.admit(&basic).await, Err(Refusal::Unknown));
    assert_eq!(script.asked(), 0);
}

#[tokio::test]
async fn an_answer_counts_for_a_minute_or_a_refusal_for_ten_seconds() {
    let script = script();
    let (readers, clock) = readers(&script);
    for (token, answer, lasts) in
        [("good", Ok(()), 60), ("other", forbidden(), 10), ("made-up", Err(Refusal::Unknown), 10)]
    {
        for (after, asked) in [(0, 1), (lasts - 1, 0), (1, 1), (1, 0)] {
            clock.fetch_add(after, Ordering::Relaxed);
            assert_eq!(readers.admit(&with(token)).await, answer, "{token}");
            assert_eq!(script.asked(), asked, "{token} after {after} s");
        }
    }
    // What is taken back opens nothing any more after that.
    clock.fetch_add(60, Ordering::Relaxed);
    assert_eq!(readers.admit(&with("good")).await, Ok(()));
    script.forgets("good");
    clock.fetch_add(59, Ordering::Relaxed);
    assert_eq!(readers.admit(&with("good")).await, Ok(()));
    clock.fetch_add(1, Ordering::Relaxed);
    assert_eq!(readers.admit(&with("good")).await, Err(Refusal::Unknown));
}

#[tokio::test]
async fn without_an_answer_nobody_is_let_in_and_the_next_one_is_asked_for() {
    let script = script();
    let (readers, clock) = readers(&script);
    let refused = ReviewError::Refused { code: 403, why: ": forbidden".to_owned() };
    for error in [ReviewError::Unreachable("no route".to_owned()), refused, ReviewError::Unreadable] {
        *script.fails.lock().unwrap() = Some(error);
        for _ in 0..2 {
            assert_eq!(readers.admit(&with("good")).await, Err(Refusal::Unanswered));
            assert_eq!(script.asked(), 1);
        }
    }
    *script.fails.lock().unwrap() = None;
    assert_eq!(readers.admit(&with("good")).await, Ok(()));
    // What was known before still counts, and no longer than it would have.
    *script.fails.lock().unwrap() = Some(ReviewError::Unreadable);
    assert_eq!(readers.admit(&with("good")).await, Ok(()));
    clock.fetch_add(60, Ordering::Relaxed);
    assert_eq!(readers.admit(&with("good")).await, Err(Refusal::Unanswered));
}

#[tokio::test]
async fn nobody_waits_long_for_an_answer() {
    let script = script();
    let (readers, _) = readers(&script);
    *script.hangs.lock().unwrap() = true;
    let begin = std::time::Instant::now();
    // More than are asked about at a time: the last ones wait for their turn, and for no longer.
    let all = (0..2 * ASKING).map(|_| async { readers.admit(&with("good")).await });
    let meanwhile = async {
        tokio::time::sleep(LIMIT / 5).await;
        assert_eq!(script.asked(), ASKING);
    };
    let (all, ()) = tokio::join!(futures::future::join_all(all), meanwhile);
    assert!(all.iter().all(|answer| *answer == Err(Refusal::Unanswered)), "{all:?}");
    assert!(begin.elapsed() < 2 * LIMIT, "{:?}", begin.elapsed());
}

#[tokio::test]
async fn many_tokens_are_asked_about_a_few_at_a_time_and_one_token_once() {
    let script = script();
    let (readers, _) = readers(&script);
    let tokens: Vec<String> = (0..50).map(|number| format!("made-up-{number}")).collect();
    let headers: Vec<HeaderMap> = tokens.iter().map(|token| with(token)).collect();
    futures::future::join_all(headers.iter().map(|headers| readers.admit(headers))).await;
    assert_eq!(script.asked(), 50);
    assert_eq!(script.most.load(Ordering::Relaxed), ASKING);
    // Of those that come together, some ask before there is an answer.
    let same = with("good");
    let all = futures::future::join_all((0..50).map(|_| readers.admit(&same))).await;
    assert!(all.iter().all(Result::is_ok));
    assert!(script.asked() <= ASKING);
}

#[tokio::test]
async fn refusals_are_http() {
    for (refusal, code) in [
        (Refusal::Unknown, 401),
        (Refusal::Forbidden("somebody".to_owned()), 403),
        (Refusal::Unanswered, 503),
    ] {
        let answer = refusal.clone().into_response();
        assert_eq!(answer.status().as_u16(), code);
        let told = answer.headers().get(header::WWW_AUTHENTICATE).is_some();
        assert_eq!(told, refusal == Refusal::Unknown);
    }
}

/// An API server that answers everything so, and repeats what it is sent.
fn api(code: u16, answer: fn(&str) -> String) -> ApiServer {
    let service = tower::service_fn(move |request: axum::http::Request<Body>| async move {
        let sent = http_body_util::BodyExt::collect(request.into_body()).await.unwrap().to_bytes();
        let text = answer(&String::from_utf8_lossy(&sent));
        let answer = axum::http::Response::builder().status(code).body(Body::from(text.into_bytes()));
        Ok::<_, tower::BoxError>(answer.unwrap())
    });
    ApiServer(Client::new(service, "default"))
}

#[tokio::test]
async fn only_a_plain_yes_of_the_api_server_is_one() {
    let token = Token::of(&with("secret")).unwrap();
    let user = |answer: fn(&str) -> String| async move { api(201, answer).user(&token_of("secret")).await };
    let known =
        user(|_| json!({ "status": { "authenticated": true, "user": { "username": "me" } } }).to_string());
    assert_eq!(known.await.unwrap().unwrap().username.as_deref(), Some("me"));
    for answer in [
        |_: &str| json!({ "status": { "authenticated": false, "user": { "username": "me" } } }).to_string(),
        |_: &str| json!({ "status": { "user": { "username": "me" } } }).to_string(),
        |_: &str| json!({ "status": { "authenticated": true } }).to_string(),
        |_: &str| json!({ "status": { "error": "expired" } }).to_string(),
    ] {
        assert_eq!(user(answer).await, Ok(None));
    }
    let me = UserInfo { username: Some("me".to_owned()), ..UserInfo::default() };
    for (answer, may) in [
        ((|_: &str| json!({ "status": { "allowed": true } }).to_string()) as fn(&str) -> String, true),
        (|_| json!({ "status": { "allowed": false, "evaluationError": "x" } }).to_string(), false),
        (|_| json!({ "status": { "allowed": true, "denied": true } }).to_string(), false),
    ] {
        assert_eq!(api(201, answer).may_read(&me).await, Ok(may));
    }
    // The question is about that path, and what is known of the user.
    let asked = api(500, |sent| json!({ "message": sent }).to_string()).may_read(&me).await.unwrap_err();
    let attributes = r#""nonResourceAttributes":{"path":"/metrics","verb":"get"},"user":"me""#;
    assert!(asked.to_string().contains(attributes), "{asked}");
    for answer in [|_: &str| String::new(), |_: &str| "{}".to_owned(), |sent: &str| sent.to_owned()] {
        assert_eq!(api(201, answer).user(&token).await, Err(ReviewError::Unreadable));
    }
}

fn token_of(text: &str) -> Token {
    Token::of(&with(text)).unwrap()
}

/// A log in memory.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Whatever the API server says, and however much is logged.
#[tokio::test]
async fn a_token_reaches_no_log() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || writer.clone());
    let _logging = tracing::subscriber::set_default(subscriber.finish());
    let clock = Arc::new(AtomicU64::new(0));
    for (code, answer) in [
        (201, (|sent: &str| sent.to_owned()) as fn(&str) -> String),
        (201, |sent| format!("{sent} and no JSON")),
        (400, |sent| json!({ "message": sent, "code": 400 }).to_string()),
        (500, |sent| sent.to_owned()),
        (201, |sent| format!(r#"{{"echo":{sent},"status":{{"authenticated":false}}}}"#)),
    ] {
        let seconds = clock.clone();
        let now = move || Duration::from_secs(seconds.fetch_add(100, Ordering::Relaxed));
        let readers = Readers::new(api(code, answer), now);
        assert!(readers.admit(&with("very-secret")).await.is_err());
    }
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert_eq!(log.matches("failed to tell who may read metrics").count(), 4, "{log}");
    assert!(log.contains("(the token)") && !log.contains("very-secret"), "{log}");
}

/// Whoever asks often does not fill the log.
#[tokio::test]
async fn that_nobody_answers_is_logged_now_and_then() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone());
    let _logging = tracing::subscriber::set_default(subscriber.finish());
    let script = script();
    *script.fails.lock().unwrap() = Some(ReviewError::Unreadable);
    let (readers, clock) = readers(&script);
    for (after, told) in [(0, 1), (1, 1), (58, 1), (1, 2), (60, 3)] {
        clock.fetch_add(after, Ordering::Relaxed);
        assert_eq!(readers.admit(&with("good")).await, Err(Refusal::Unanswered));
        let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert_eq!(log.lines().count(), told, "{log}");
    }
}
