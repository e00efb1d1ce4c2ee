//! The names by which a client's certificate is known.

use std::fmt;
use std::str::FromStr;

/// A name among the subject alternative names of a certificate (RFC 5280, section 4.2.1.6). It is compared byte by byte:
/// nothing in it stands for anything else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientName {
    /// `publisher.example.org`
    Dns(String),
    /// `spiffe://example.org/publisher`
    Uri(String),
    /// `publisher@example.org`
    Email(String),
}

impl FromStr for ClientName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        if text.is_empty() || text.contains(|c: char| c.is_control() || c.is_whitespace() || !c.is_ascii()) {
            return Err("must be a DNS name, a URI or an email address in ASCII, without white space");
        }
        if text.contains('*') {
            return Err("must be a whole name: patterns are not supported, so give each name");
        }
        // Only a URI has a colon.
        let kind = match text {
            uri if uri.contains(':') => Self::Uri,
            email if email.contains('@') => Self::Email,
            _ => Self::Dns,
        };
        Ok(kind(text.to_owned()))
    }
}

impl fmt::Display for ClientName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Dns(name) | Self::Uri(name) | Self::Email(name)) = self;
        f.write_str(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_of_a_name_says_its_kind() {
        let dns = "publisher.example.org";
        assert_eq!(dns.parse(), Ok(ClientName::Dns(dns.to_owned())));
        for uri in ["spiffe://example.org/publisher", "urn:publisher:7", "https://me@example.org"] {
            assert_eq!(uri.parse(), Ok(ClientName::Uri(uri.to_owned())));
        }
        let email = "publisher@example.org";
        assert_eq!(email.parse(), Ok(ClientName::Email(email.to_owned())));
        for none in ["", "*.example.org", "a b", "CN=a\n", "ä"] {
            assert!(none.parse::<ClientName>().is_err(), "{none:?}");
        }
    }
}
