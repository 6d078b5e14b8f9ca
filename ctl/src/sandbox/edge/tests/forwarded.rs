//! What goes through, what does not, and what is tried once more.

use http_body_util::{BodyExt as _, StreamBody};
use hyper::{
    Request,
    body::{Bytes, Frame},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;

use super::{Stand, Toy, client, division};

#[tokio::test]
async fn a_request_that_a_server_refuses_is_tried_on_another() {
    let stand = Stand::start().await;
    let good = Toy::start("good").await;
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = free.local_addr().unwrap();
    drop(free);
    let both = [("b1", "blue", nobody, 1), ("b2", "blue", good.address, 1)];
    stand.put(&division(&both, &[("blue", 100)], &[])).await;
    for _ in 0..10 {
        let answer = client().post(stand.url("/echo")).body("paid").send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["x-served-by"], "b2");
        assert_eq!(answer.text().await.unwrap(), "paid");
    }
    assert_eq!(good.count(), 10);
    stand.put(&division(&[("b1", "blue", nobody, 1)], &[("blue", 100)], &[])).await;
    let answer = client().get(stand.url("/")).send().await.unwrap();
    assert_eq!(answer.status(), 502);
    assert!(answer.text().await.unwrap().contains("b1: Connection refused"));
}

#[tokio::test]
async fn what_was_sent_is_never_sent_a_second_time() {
    let stand = Stand::start().await;
    let good = Toy::start("good").await;
    let dying = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let both = [("b1", "blue", dying.local_addr().unwrap(), 1), ("b2", "blue", good.address, 1)];
    stand.put(&division(&both, &[("blue", 100)], &[])).await;
    let taken = tokio::spawn(async move {
        let (mut stream, _) = dying.accept().await.unwrap();
        let mut head = [0; 4096];
        assert!(stream.read(&mut head).await.unwrap() > 0);
    });
    // Of two turns, one is the dying server's.
    let mut statuses = Vec::new();
    for _ in 0..2 {
        let answer = client().post(stand.url("/")).body("pay").send().await.unwrap();
        statuses.push((answer.status().as_u16(), answer.headers()["x-served-by"].clone()));
    }
    taken.await.unwrap();
    statuses.sort_by_key(|(status, _)| *status);
    assert_eq!(statuses, [(200, "b2".parse().unwrap()), (502, "b1".parse().unwrap())]);
    assert_eq!(good.count(), 1);
}

#[tokio::test]
async fn what_is_for_the_next_hop_stays_there() {
    let stand = Stand::start().await;
    let mut toy = Toy::start("b1").await;
    stand.put(&division(&[("b1", "blue", toy.address, 1)], &[("blue", 100)], &[])).await;
    let mut stream = TcpStream::connect(stand.address()).await.unwrap();
    let request = "GET http://shop.example/a?b=c HTTP/1.1\r\nhost: wrong.example\r\nconnection: x-mine, close\r\n\
                   x-mine: 1\r\nkeep-alive: timeout=5\r\nte: trailers\r\nupgrade: websocket\r\nx-kept: 2\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (path, headers) = toy.seen.recv().await.unwrap();
    assert_eq!(path, "/a?b=c");
    assert_eq!(
        (&headers["host"], &headers["x-kept"]),
        (&"shop.example".parse().unwrap(), &"2".parse().unwrap())
    );
    assert_eq!(headers["connection"], "close");
    for gone in ["x-mine", "keep-alive", "te", "upgrade"] {
        assert!(!headers.contains_key(gone), "{gone} went on");
    }
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("x-public: for the user\r\n"), "{answer}");
    assert!(!answer.contains("x-private"), "{answer}");
}

#[tokio::test]
async fn a_tunnel_is_refused() {
    let stand = Stand::start().await;
    let toy = Toy::start("b1").await;
    stand.put(&division(&[("b1", "blue", toy.address, 1)], &[("blue", 100)], &[])).await;
    let mut stream = TcpStream::connect(stand.address()).await.unwrap();
    stream.write_all(b"CONNECT a.example:443 HTTP/1.1\r\nhost: a.example\r\n\r\n").await.unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 405");
    assert_eq!(toy.count(), 0);
}

#[tokio::test]
async fn bodies_go_through_as_they_come_both_ways() {
    let stand = Stand::start().await;
    let toy = Toy::start("b1").await;
    stand.put(&division(&[("b1", "blue", toy.address, 1)], &[("blue", 100)], &[])).await;
    let stream = TcpStream::connect(stand.address()).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let (parts, body) = mpsc::channel::<Result<Frame<Bytes>, std::convert::Infallible>>(1);
    let request =
        Request::post("/echo").header("host", "a").body(StreamBody::new(ReceiverStream::new(body)));
    let say = async |text: &'static str| {
        parts.send(Ok(Frame::data(Bytes::from_static(text.as_bytes())))).await.unwrap();
    };
    let (answer, ()) = tokio::join!(sender.send_request(request.unwrap()), say("first"));
    let mut answer = answer.unwrap().into_body();
    let mut heard = async || answer.frame().await.unwrap().unwrap().into_data().unwrap();
    // Each part is back before the next is said: nothing waits for the whole.
    assert_eq!(heard().await, "first");
    say("second").await;
    assert_eq!(heard().await, "second");
    drop(parts);
    assert!(answer.frame().await.is_none());
}
