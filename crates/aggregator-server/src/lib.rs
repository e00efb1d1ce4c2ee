//! The aggregator as a service.
