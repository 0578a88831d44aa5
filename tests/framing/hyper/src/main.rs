//! The pages of the framing proof, by hyper. Says its port.

use std::convert::Infallible;
use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Channel, Full, combinators::BoxBody};
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::time::sleep;

const PAUSE: Duration = Duration::from_millis(700);
const TEXT: [u8; 3000] = [b'x'; 3000];

type Body = BoxBody<Bytes, Infallible>;

fn whole(text: Bytes) -> Response<Body> {
    Response::new(Full::new(text).boxed())
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut response = whole(Bytes::new());
    *response.status_mut() = status;
    response
}

/// Two halves with a pause between them, of known length or not.
fn halves(pause: Duration, is_length_known: bool) -> Response<Body> {
    let (mut sender, body) = Channel::new(1);
    tokio::task::spawn_local(async move {
        let half = Bytes::from_static(&TEXT[1500..]);
        let _ = sender.send_data(half.clone()).await;
        sleep(pause).await;
        let _ = sender.send_data(half).await;
    });
    let mut response = Response::new(body.boxed());
    if is_length_known {
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("3000"));
    }
    response
}

async fn answer(request: Request<Incoming>) -> Result<Response<Body>, hyper::Error> {
    let path = request.uri().path().to_owned();
    let text = Bytes::from_static(&TEXT);
    let body = request.into_body().collect().await?.to_bytes();
    Ok(match path.as_str() {
        "/length" => whole(text),
        "/slow" => {
            sleep(PAUSE).await;
            whole(text)
        }
        "/chunked" => halves(Duration::ZERO, false),
        "/paused" => halves(PAUSE, true),
        "/paused-chunked" => halves(PAUSE, false),
        "/none" => empty(StatusCode::NO_CONTENT),
        "/unchanged" => empty(StatusCode::NOT_MODIFIED),
        "/echo" => whole(body),
        _ => empty(StatusCode::NOT_FOUND),
    })
}

fn main() -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("PORT={}", listener.local_addr()?.port());
        std::io::stdout().flush()?;
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::task::spawn_local(async move {
                let _ = http1::Builder::new()
                    .half_close(true)
                    .serve_connection(TokioIo::new(stream), service_fn(answer))
                    .await;
            });
        }
    })
}
