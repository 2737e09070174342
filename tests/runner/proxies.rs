//! A proxy between dbctl and the API server: one that the kubeconfig names is used, one of the environment not for this machine.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::support::{Answer, Sandbox, dbctl};

/// An HTTP proxy that connects to whom it is told to; returns its URL and how often it was asked.
fn proxy() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (url, asked) = (format!("http://{}", listener.local_addr().unwrap()), Arc::new(AtomicUsize::new(0)));
    let count = asked.clone();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            count.fetch_add(1, Ordering::Relaxed);
            std::thread::spawn(move || pass(client));
        }
    });
    (url, asked)
}

fn pass(mut client: TcpStream) -> Option<()> {
    let head: Vec<String> =
        BufReader::new(&client).lines().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    let server = TcpStream::connect(head.first()?.strip_prefix("CONNECT ")?.split(' ').next()?).ok()?;
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").ok()?;
    let (mut from, mut to) = (client.try_clone().ok()?, server.try_clone().ok()?);
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        to.shutdown(std::net::Shutdown::Write)
    });
    std::io::copy(&mut &server, &mut client).ok()?;
    client.shutdown(std::net::Shutdown::Write).ok()
}

#[test]
fn a_proxy_is_used_where_the_kubeconfig_names_it_and_not_for_this_machine() {
    let sandbox = Sandbox::own();
    let (url, asked) = proxy();
    let (nowhere, files) = ("http://127.0.0.1:9", tempfile::tempdir().unwrap());
    let list = |args: &[&str], proxy: &str| {
        let mut command = dbctl(sandbox.home());
        let answer = command.args(args).arg("list").env("HTTPS_PROXY", proxy).env("HTTP_PROXY", proxy);
        Answer::from(answer.output().unwrap()).ok()
    };
    list(&["--sandbox"], nowhere);
    let given = sandbox.kubeconfig();
    list(&["--kubeconfig", given.to_str().unwrap()], nowhere);

    let mut config: Value = serde_yaml::from_str(&std::fs::read_to_string(given).unwrap()).unwrap();
    config["clusters"][0]["cluster"]["proxy-url"] = json!(url);
    let file = files.path().join("kubeconfig");
    std::fs::write(&file, config.to_string()).unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 0);
    list(&["--kubeconfig", file.to_str().unwrap()], nowhere);
    assert!(asked.load(Ordering::Relaxed) > 0);
}
