//! As much of HTTP as a member's Patroni and agent need to be asked by the controller.

use std::future::Future;
use std::net::Ipv4Addr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::Error;

/// Longer requests are not the controller's.
const MOST: usize = 1 << 20;

/// What was asked: the method, and the body of one that changes something.
pub struct Request {
    /// `GET`, `PATCH`, …
    pub method: String,
    /// What it carries.
    pub body: Vec<u8>,
}

/// Answers every connection to that address with JSON, in the way of Patroni: one answer, and the end.
pub async fn listen<A, F>(address: Ipv4Addr, port: u16, answer: Arc<A>) -> std::io::Result<()>
where
    A: Fn(Request) -> F + Send + Sync + 'static,
    F: Future<Output = String> + Send + 'static,
{
    let listener = TcpListener::bind((address, port)).await?;
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let answer = Arc::clone(&answer);
            tokio::spawn(async move {
                // Whoever asked and went away asks again.
                let _ = serve(stream, answer.as_ref()).await;
            });
        }
    });
    Ok(())
}

async fn serve<F: Future<Output = String>>(
    mut stream: TcpStream,
    answer: &impl Fn(Request) -> F,
) -> Result<(), Error> {
    let request = read(&mut stream).await?;
    let body = answer(request).await;
    let head = format!(
        "HTTP/1.0 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).await?;
    Ok(stream.shutdown().await?)
}

async fn read(stream: &mut TcpStream) -> Result<Request, Error> {
    let (mut read, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        if let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8(read[..end].to_vec())?;
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
            });
            if read.len() >= end + 4 + length.unwrap_or_default() {
                let method = head.split_whitespace().next().unwrap_or_default().to_owned();
                return Ok(Request { method, body: read.split_off(end + 4) });
            }
        }
        let count = stream.read(&mut chunk).await?;
        if count == 0 || read.len() > MOST {
            return Err("a request without an end".into());
        }
        read.extend_from_slice(&chunk[..count]);
    }
}
