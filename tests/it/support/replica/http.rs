//! As much HTTP/1.1 as `icp` speaks: requests with a length, connections kept open.

use std::io::{self, Read, Write};
use std::net::TcpStream;

const HEAD_BYTES_MAX: usize = 16 << 10;
const BODY_BYTES_MAX: usize = 4 << 20;

pub struct Request {
    pub is_post: bool,
    pub path: String,
    pub body: Vec<u8>,
}

/// What goes back.
pub enum Answer {
    Whole {
        code: u16,
        body: Vec<u8>,
    },
    /// Half of the body, then the connection ends.
    Half(Vec<u8>),
    /// The connection ends.
    Nothing,
}

/// Answers the requests of one connection until either side ends it.
pub fn serve(mut stream: TcpStream, answer: impl Fn(&Request) -> Answer) -> io::Result<()> {
    let mut buffer = Vec::new();
    while let Some(request) = read_request(&mut stream, &mut buffer)? {
        match answer(&request) {
            Answer::Whole { code, body } => {
                stream.write_all(head(code, body.len()).as_bytes())?;
                stream.write_all(&body)?;
            }
            Answer::Half(body) => {
                stream.write_all(head(200, body.len()).as_bytes())?;
                stream.write_all(&body[..body.len() / 2])?;
                break;
            }
            Answer::Nothing => break,
        }
    }
    stream.shutdown(std::net::Shutdown::Both)
}

fn head(code: u16, length: usize) -> String {
    format!(
        "HTTP/1.1 {code} -\r\ncontent-type: application/cbor\r\ncontent-length: {length}\r\n\r\n"
    )
}

/// Reads one request; what follows it stays in `buffer`. `None` at the end of the connection.
fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<Option<Request>> {
    let (mut request, head_bytes, body_bytes) = loop {
        if let Some(parsed) = parse_head(buffer)? {
            break parsed;
        }
        if buffer.len() > HEAD_BYTES_MAX {
            return Err(io::Error::other("a head without an end"));
        }
        if read_more(stream, buffer)? == 0 {
            return Ok(None);
        }
    };
    if body_bytes > BODY_BYTES_MAX {
        return Err(io::Error::other(format!("a body of {body_bytes} bytes")));
    }
    while buffer.len() < head_bytes + body_bytes {
        if read_more(stream, buffer)? == 0 {
            return Ok(None);
        }
    }
    request.body = buffer[head_bytes..head_bytes + body_bytes].to_vec();
    buffer.drain(..head_bytes + body_bytes);
    Ok(Some(request))
}

fn read_more(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<usize> {
    let mut part = [0; 64 << 10];
    let read = stream.read(&mut part)?;
    buffer.extend_from_slice(&part[..read]);
    Ok(read)
}

/// Returns the request without its body, and the lengths of head and body.
fn parse_head(buffer: &[u8]) -> io::Result<Option<(Request, usize, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(head_bytes) = parsed.parse(buffer).map_err(io::Error::other)?
    else {
        return Ok(None);
    };
    let is_length = |header: &&httparse::Header| header.name.eq_ignore_ascii_case("content-length");
    let length = parsed.headers.iter().find(is_length).map(|header| header.value);
    let length = length.map(|value| std::str::from_utf8(value).unwrap_or_default().parse());
    let length = length.transpose().map_err(io::Error::other)?.unwrap_or(0);
    let request = Request {
        is_post: parsed.method == Some("POST"),
        path: parsed.path.unwrap_or_default().to_owned(),
        body: Vec::new(),
    };
    Ok(Some((request, head_bytes, length)))
}
