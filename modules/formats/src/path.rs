//! The name of the series at hand: a topic and the keys below it.

use tidegate_sdk::SERIES_NAME_BYTES;

use crate::shown;

/// A name that grows by a level and shrinks again, in one piece of memory.
#[derive(Debug, Default)]
pub struct Path {
    name: String,
    topic: usize,
}

impl Path {
    /// Begins anew at a topic.
    pub fn begin(&mut self, topic: &str) {
        self.name.clear();
        self.name.push_str(topic);
        self.topic = topic.len();
    }

    /// The series' name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The part below the topic, without the `/` between them; empty at the topic itself.
    #[must_use]
    pub fn below(&self) -> &str {
        self.name.get(self.topic + 1..).unwrap_or_default()
    }

    /// Goes down one level; what comes back is for [`Path::ascend`].
    ///
    /// # Errors
    /// A key that would make the name look like that of another series, or too long.
    pub fn descend(&mut self, key: &str) -> Result<usize, String> {
        if key.is_empty() {
            return Err(format!("an empty key in `{}`", shown(&self.name)));
        }
        // Topics may have empty levels, keys may not.
        if key.starts_with('/') || key.ends_with('/') || key.contains("//") {
            return Err(format!(
                "the key `{}` has an empty part between its slashes",
                shown(key)
            ));
        }
        let back = self.name.len();
        if back + 1 + key.len() > SERIES_NAME_BYTES {
            return Err(format!(
                "the series `{}…` has a name of {} bytes; {SERIES_NAME_BYTES} are possible",
                shown(&self.name),
                back + 1 + key.len()
            ));
        }
        self.name.push('/');
        self.name.push_str(key);
        Ok(back)
    }

    /// Goes back to where [`Path::descend`] was.
    pub fn ascend(&mut self, back: usize) {
        self.name.truncate(back);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_grows_and_shrinks() {
        let mut path = Path::default();
        path.begin("plant/line1");
        assert_eq!((path.name(), path.below()), ("plant/line1", ""));
        let top = path.descend("a").unwrap();
        let inner = path.descend("b").unwrap();
        assert_eq!((path.name(), path.below()), ("plant/line1/a/b", "a/b"));
        path.ascend(inner);
        path.ascend(top);
        assert_eq!(path.name(), "plant/line1");
    }

    #[test]
    fn a_key_that_could_be_taken_for_another_is_refused() {
        let mut path = Path::default();
        path.begin("t");
        for key in ["", "/a", "a/", "a//b", &"x".repeat(511)] {
            path.descend(key).unwrap_err();
        }
        path.descend(&"x".repeat(510)).unwrap();
        path.descend("y").unwrap_err();
    }
}
