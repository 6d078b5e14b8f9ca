//! A real app on loopback: it reads each request, and answers as it is told to.

use std::{net::SocketAddr, sync::Arc};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::AbortHandle,
};

/// Serves until it is dropped.
pub(crate) struct App {
    pub(crate) address: SocketAddr,
    serving: AbortHandle,
}

impl App {
    /// `answer` gives status line and body of each request.
    pub(crate) async fn start(
        answer: impl Fn() -> (&'static str, String) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answer = Arc::new(answer);
        let serving = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let answer = answer.clone();
                tokio::spawn(async move {
                    let mut request = Vec::new();
                    while !request.ends_with(b"\r\n\r\n") {
                        if stream.read_buf(&mut request).await.is_ok_and(|read| read == 0) {
                            return;
                        }
                    }
                    let (status, body) = answer();
                    let answer = format!(
                        "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                        body.len()
                    );
                    stream.write_all(answer.as_bytes()).await.ok();
                });
            }
        });
        Self { address, serving: serving.abort_handle() }
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.serving.abort();
    }
}
