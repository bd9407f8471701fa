//! The event stream format, as far as the feed uses it: the data of each event, bounded.

/// Cuts bytes into events. Comments and other fields are skipped.
pub(super) struct EventReader {
    max: usize,
    line: Vec<u8>,
    data: Option<Vec<u8>>,
    after_cr: bool,
}

impl EventReader {
    /// Neither a line nor an event's data may be longer than `max` bytes and a field name.
    pub(super) const fn new(max: usize) -> Self {
        Self { max, line: Vec::new(), data: None, after_cr: false }
    }

    /// The data of the events that these bytes complete; none if a line or an event is too long, after which the reader is of no use.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
        let mut events = Vec::new();
        for &byte in bytes {
            let ends = match byte {
                b'\n' => !std::mem::take(&mut self.after_cr),
                b'\r' => {
                    self.after_cr = true;
                    true
                }
                _ => {
                    self.after_cr = false;
                    if self.line.len() > self.max + FIELD.len() {
                        return None;
                    }
                    self.line.push(byte);
                    continue;
                }
            };
            if ends {
                events.extend(self.end_line()?);
            }
        }
        Some(events)
    }

    fn end_line(&mut self) -> Option<Option<Vec<u8>>> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            return Some(self.data.take());
        }
        if let Some(value) = line.strip_prefix(FIELD) {
            let value = value.strip_prefix(b" ").unwrap_or(value);
            match &mut self.data {
                None => self.data = Some(value.to_vec()),
                Some(data) => {
                    if data.len() + value.len() >= self.max {
                        return None;
                    }
                    data.push(b'\n');
                    data.extend_from_slice(value);
                }
            }
        }
        Some(None)
    }
}

const FIELD: &[u8] = b"data:";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_cut_alike_wherever_the_bytes_are() {
        let text = b": hello\ndata: one\n\nevent: x\r\ndata:two\r\n\r\ndata\n\nid: 7\n\ndata: a\ndata: b\r\rdata: cut";
        let expected: Vec<Vec<u8>> = [&b"one"[..], b"two", b"a\nb"].map(<[u8]>::to_vec).into();
        for cut in 0..text.len() {
            let mut reader = EventReader::new(100);
            let mut events = reader.push(&text[..cut]).unwrap();
            events.extend(reader.push(&text[cut..]).unwrap());
            assert_eq!(events, expected, "cut at {cut}");
        }
    }

    #[test]
    fn neither_lines_nor_events_grow_without_bound() {
        let mut reader = EventReader::new(10);
        assert_eq!(reader.push(b"data: 0123456789\n\n"), Some(vec![b"0123456789".to_vec()]));
        assert!(EventReader::new(10).push(b"data: 01234567890").is_none());
        assert!(EventReader::new(10).push(&[b'x'; 100]).is_none());
        assert!(EventReader::new(10).push(b"data: 012345\ndata: 012345\n").is_none());
    }
}
