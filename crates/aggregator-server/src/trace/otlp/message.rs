//! The part of OTLP that is used here, as protobuf: names, numbers and types are those of `opentelemetry/proto/trace/v1` and
//! `opentelemetry/proto/collector/trace/v1`, version 1. A collector takes a field that is left out for empty.

use std::time::{Duration, SystemTime};

use prost::Message;

use crate::trace::context::SpanContext;
use crate::trace::span::{Kind, Span, Value};

/// What OpenTelemetry calls this program, and the part of it that makes spans.
const NAME: &str = "aggregator-server";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The bits of `flags`: the trace is sampled; it is known whether the other span, a parent or the one that a link leads to, is
/// another process's; it is.
const SAMPLED: u32 = 0x1;
const HAS_IS_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;

/// Values of `SpanKind` and `StatusCode`.
const KIND_INTERNAL: i32 = 1;
const KIND_SERVER: i32 = 2;
const STATUS_ERROR: i32 = 2;

#[derive(Clone, PartialEq, Message)]
pub(super) struct ExportTraceServiceRequest {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    scope: Option<InstrumentationScope>,
    #[prost(message, repeated, tag = "2")]
    spans: Vec<SpanMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct InstrumentationScope {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
struct SpanMessage {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(fixed32, tag = "16")]
    flags: u32,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, repeated, tag = "13")]
    links: Vec<Link>,
    #[prost(uint32, tag = "14")]
    dropped_links_count: u32,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
}

#[derive(Clone, PartialEq, Message)]
struct Link {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(fixed32, tag = "6")]
    flags: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "3")]
    code: i32,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(oneof = "AnyValueKind", tags = "1, 3")]
    value: Option<AnyValueKind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum AnyValueKind {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(int64, tag = "3")]
    Number(i64),
}

#[derive(Clone, PartialEq, Message)]
struct ExportTraceServiceResponse {
    #[prost(message, optional, tag = "1")]
    partial_success: Option<ExportTracePartialSuccess>,
}

#[derive(Clone, PartialEq, Message)]
struct ExportTracePartialSuccess {
    #[prost(int64, tag = "1")]
    rejected_spans: i64,
}

/// An export of these spans by this process.
pub(super) fn of(spans: &[Span], instance: &str) -> ExportTraceServiceRequest {
    let attributes = vec![
        attribute("service.name", &NAME.into()),
        attribute("service.version", &VERSION.into()),
        attribute("service.instance.id", &instance.to_owned().into()),
    ];
    let scope = InstrumentationScope { name: NAME.to_owned(), version: VERSION.to_owned() };
    let scope_spans = vec![ScopeSpans { scope: Some(scope), spans: spans.iter().map(span).collect() }];
    let resource = Some(Resource { attributes });
    ExportTraceServiceRequest { resource_spans: vec![ResourceSpans { resource, scope_spans }] }
}

/// How many spans an answer says the collector has refused; `None` if it is not understood.
pub(super) fn refused(answer: &[u8]) -> Option<u64> {
    let answer = ExportTraceServiceResponse::decode(answer).ok()?;
    answer.partial_success.and_then(|partial| u64::try_from(partial.rejected_spans).ok())
}

fn span(span: &Span) -> SpanMessage {
    let is_remote = span.parent.is_some_and(|parent| parent.is_remote);
    SpanMessage {
        trace_id: trace_id(span.context),
        span_id: span_id(span.context),
        parent_span_id: span
            .parent
            .map(|parent| parent.span.get().to_be_bytes().to_vec())
            .unwrap_or_default(),
        flags: SAMPLED | HAS_IS_REMOTE | if is_remote { IS_REMOTE } else { 0 },
        name: span.name.to_string(),
        kind: match span.kind {
            Kind::Server => KIND_SERVER,
            Kind::Internal => KIND_INTERNAL,
        },
        start_time_unix_nano: nanos(span.time.began),
        end_time_unix_nano: nanos(span.time.began + span.time.took),
        attributes: span.attributes.iter().map(|(key, value)| attribute(key, value)).collect(),
        links: span.links.to.iter().copied().map(link).collect(),
        dropped_links_count: span.links.left_out,
        status: span.has_failed.then_some(Status { code: STATUS_ERROR }),
    }
}

/// All links lead to spans of this process.
fn link(context: SpanContext) -> Link {
    Link { trace_id: trace_id(context), span_id: span_id(context), flags: SAMPLED | HAS_IS_REMOTE }
}

fn attribute(key: &str, value: &Value) -> KeyValue {
    let value = match value {
        Value::Text(text) => AnyValueKind::Text(text.to_string()),
        Value::Number(number) => AnyValueKind::Number(*number),
    };
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }) }
}

fn trace_id(context: SpanContext) -> Vec<u8> {
    context.trace.get().to_be_bytes().to_vec()
}

fn span_id(context: SpanContext) -> Vec<u8> {
    context.span.get().to_be_bytes().to_vec()
}

/// Since 1970. Nanoseconds in 64 bits last until the year 2554.
fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
