//! The control socket: HTTP over a Unix socket in the state directory, for the gateway's own user and root. What is
//! changed in a running gateway is changed through it.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Take, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;
use tokio::net::UnixListener;

/// The longest path that a Unix socket can have: `sockaddr_un` less its final zero.
const PATH_BYTES: usize = 107;
/// How long the daemon may take to answer. An action is answered after its commit.
const PATIENCE: Duration = Duration::from_secs(30);
/// The largest answer that is read; of one that comes in lines, the largest line.
const ANSWER_BYTES: u64 = 16 * 1024 * 1024;

/// The socket of a gateway.
pub(crate) fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("control.sock")
}

/// The socket's file, for as long as the gateway listens on it.
pub(crate) struct Socket {
    path: PathBuf,
}

/// Listens. To be called under the store's lock: then nobody else listens, and what lies there is of a dead process.
///
/// # Errors
/// The path is too long, or the directory does not take the socket.
pub(crate) fn listen(state_dir: &Path) -> anyhow::Result<(UnixListener, Socket)> {
    let path = path(state_dir);
    let bytes = path.as_os_str().len();
    anyhow::ensure!(
        bytes <= PATH_BYTES,
        "the control socket {} has a path of {bytes} bytes, and the system takes {PATH_BYTES}; choose a shorter \
         `gateway.state-dir`",
        path.display()
    );
    // It gets its name when its permissions are right, and so replaces one that a dead process left.
    let fresh = state_dir.join(".control");
    bind(&fresh, &path).with_context(|| {
        format!(
            "the control socket {} cannot be made; check owner and permissions of `gateway.state-dir`",
            path.display()
        )
    })
}

fn bind(fresh: &Path, path: &Path) -> anyhow::Result<(UnixListener, Socket)> {
    match fs::remove_file(fresh) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(fresh)?;
    fs::set_permissions(fresh, fs::Permissions::from_mode(0o600))?;
    fs::rename(fresh, path)?;
    Ok((
        listener,
        Socket {
            path: path.to_owned(),
        },
    ))
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            // The next start replaces it.
            tracing::debug!(%error, path = %self.path.display(), "the control socket could not be removed");
        }
    }
}

/// Whether a gateway runs that can be told something.
pub(crate) fn listens(state_dir: &Path) -> bool {
    UnixStream::connect(path(state_dir)).is_ok()
}

/// Tells the running gateway to do something, and returns what it answers.
///
/// # Errors
/// No gateway runs, it may not be told, or it refuses; each says what to do.
pub(crate) fn post(state_dir: &Path, action: &str, body: &Value) -> anyhow::Result<Value> {
    post_within(state_dir, action, body, PATIENCE)
}

/// The same for what may take longer.
///
/// # Errors
/// As [`post`].
pub(crate) fn post_within(
    state_dir: &Path,
    action: &str,
    body: &Value,
    patience: Duration,
) -> anyhow::Result<Value> {
    let path = path(state_dir);
    let body = body.to_string();
    let request = format!(
        "POST {action} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let stream = connect(&path)?;
    let answer = exchange(stream, request.as_bytes(), patience)
        .with_context(|| format!("the gateway did not answer on {}", path.display()))?;
    read_answer(&answer)
}

/// Sends bytes to the running gateway, and hands on each line of JSON that it answers, as it comes. Ends with the answer,
/// which may be of any length.
///
/// # Errors
/// As [`post`], and what `each` says.
pub(crate) fn follow(
    state_dir: &Path,
    action: &str,
    body: &[u8],
    mut each: impl FnMut(Value) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let path = path(state_dir);
    let silent = || format!("the gateway did not answer on {}", path.display());
    let head = format!(
        "POST {action} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = connect(&path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream
        .write_all(head.as_bytes())
        .and_then(|()| stream.write_all(body))
        .with_context(silent)?;
    let mut answer = BufReader::new(stream).take(ANSWER_BYTES);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if answer.read_line(&mut head).with_context(silent)? == 0 {
            break;
        }
    }
    if !(200..300).contains(&status(&head)?) {
        answer.read_to_string(&mut head).with_context(silent)?;
        return read_answer(&head).map(drop);
    }
    while let Some(line) = next_line(&mut answer)? {
        each(
            serde_json::from_slice(&line).context("the gateway answered a line that is no JSON")?,
        )?;
    }
    Ok(())
}

/// The next line, within the bound of its own; `None` at the end.
fn next_line(answer: &mut Take<BufReader<UnixStream>>) -> anyhow::Result<Option<Vec<u8>>> {
    answer.set_limit(ANSWER_BYTES);
    let mut line = Vec::new();
    answer
        .read_until(b'\n', &mut line)
        .context("the connection to the gateway broke")?;
    anyhow::ensure!(
        line.ends_with(b"\n") || answer.limit() > 0,
        "the gateway answered a line of more than {ANSWER_BYTES} bytes, which is not read to its end"
    );
    Ok((!line.is_empty()).then_some(line))
}

fn connect(path: &Path) -> anyhow::Result<UnixStream> {
    let shown = path.display();
    UnixStream::connect(path).map_err(|error| {
        let hint = if matches!(
            error.kind(),
            ErrorKind::NotFound | ErrorKind::ConnectionRefused
        ) {
            format!(
                "the gateway does not run (nobody listens on {shown}): start it with `tidegate run`, or give the \
                 `--config` or `--state-dir` of the one that runs"
            )
        } else if error.kind() == ErrorKind::PermissionDenied {
            format!(
                "the control socket {shown} is for the gateway's own user and root: run this as one of them"
            )
        } else {
            format!("the control socket {shown} cannot be used")
        };
        anyhow::Error::from(error).context(hint)
    })
}

/// A request as in HTTP/1.0: the answer ends with the connection.
fn exchange(mut stream: UnixStream, request: &[u8], patience: Duration) -> anyhow::Result<String> {
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(request)?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES).read_to_string(&mut answer)?;
    Ok(answer)
}

fn status(head: &str) -> anyhow::Result<u16> {
    let line = head.lines().next();
    line.and_then(|line| line.split(' ').nth(1)?.parse::<u16>().ok())
        .context("the gateway's answer has no status")
}

fn read_answer(answer: &str) -> anyhow::Result<Value> {
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("the gateway's answer is not HTTP")?;
    let status = status(head)?;
    let body: Value = serde_json::from_str(body)
        .with_context(|| format!("the gateway answered {status} and no JSON"))?;
    if (200..300).contains(&status) {
        return Ok(body);
    }
    let detail = body["detail"].as_str().unwrap_or("it does not say why");
    anyhow::bail!("the gateway refuses: {detail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_its_value_or_the_reason() {
        let check = |answer: &str, expect: Result<Value, &str>| {
            let found = read_answer(answer).map_err(|error| error.to_string());
            assert_eq!(found, expect.map_err(str::to_owned), "{answer}");
        };
        check(
            "HTTP/1.0 202 Accepted\r\na: b\r\n\r\n{\"order\":1}",
            Ok(serde_json::json!({"order": 1})),
        );
        check(
            "HTTP/1.0 404 Not Found\r\n\r\n{\"detail\":\"no such rows\"}",
            Err("the gateway refuses: no such rows"),
        );
        check(
            "HTTP/1.0 500 Oh\r\n\r\n",
            Err("the gateway answered 500 and no JSON"),
        );
        check("nonsense", Err("the gateway's answer is not HTTP"));
    }

    #[test]
    fn an_answer_in_lines_has_no_end_that_a_line_does_not_have() {
        let follow_lines = |line: String, count: usize| {
            let dir = tempfile::tempdir().unwrap();
            let listener = std::os::unix::net::UnixListener::bind(path(dir.path())).unwrap();
            let gateway = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = BufReader::new(stream.try_clone().unwrap());
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") {
                    request.read_line(&mut head).unwrap();
                }
                stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n").unwrap();
                // Who has read enough hangs up.
                (0..count).try_for_each(|_| stream.write_all(line.as_bytes()))
            });
            let mut lines = 0;
            let followed = follow(dir.path(), "/try", b"", |value| {
                assert!(value["rows"].is_string());
                lines += 1;
                Ok(())
            });
            let sent = gateway.join().unwrap();
            (lines, followed.map_err(|error| error.to_string()), sent)
        };
        let line = |bytes: usize| format!("{{\"rows\":\"{}\"}}\n", "x".repeat(bytes));
        let whole = usize::try_from(ANSWER_BYTES).unwrap();

        let (lines, followed, sent) = follow_lines(line(1 << 20), 40);
        sent.unwrap();
        assert_eq!((lines, followed), (40, Ok(())));
        let (lines, followed, _) = follow_lines(line(whole), 1);
        let error = followed.unwrap_err();
        assert!(error.contains("more than 16777216 bytes"), "{error}");
        assert_eq!(lines, 0);
    }

    #[tokio::test]
    async fn a_socket_is_for_its_user_alone_replaces_a_dead_one_and_goes_in_the_end() {
        let dir = tempfile::tempdir().unwrap();
        // A dead process leaves its file.
        drop(std::os::unix::net::UnixListener::bind(path(dir.path())).unwrap());
        let error = connect(&path(dir.path())).unwrap_err();
        assert!(error.to_string().contains("does not run"), "{error:#}");

        let (_listener, socket) = listen(dir.path()).unwrap();
        let mode = fs::metadata(path(dir.path())).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        connect(&path(dir.path())).unwrap();
        drop(socket);
        assert!(!path(dir.path()).exists());
    }

    #[tokio::test]
    async fn a_path_that_is_too_long_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let long = dir.path().join("d".repeat(100));
        fs::create_dir(&long).unwrap();
        let error = listen(&long).err().map(|error| error.to_string()).unwrap();
        assert!(
            error.contains("107") && error.contains("gateway.state-dir"),
            "{error}"
        );
    }
}
