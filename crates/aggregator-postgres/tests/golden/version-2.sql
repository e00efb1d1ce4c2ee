SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;
CREATE SCHEMA version_2;
SET default_tablespace = '';
SET default_table_access_method = heap;
CREATE TABLE version_2.appends (
    partition integer NOT NULL,
    attempt_id bytea NOT NULL,
    first_offset bigint NOT NULL,
    last_offset bigint NOT NULL,
    at bigint NOT NULL
);
CREATE TABLE version_2.events (
    partition integer NOT NULL,
    "offset" bigint NOT NULL,
    topic_id bigint NOT NULL,
    seq bigint,
    event_id text NOT NULL COLLATE pg_catalog."C",
    source text NOT NULL,
    source_key text NOT NULL COLLATE pg_catalog."C",
    "timestamp" text NOT NULL,
    payload text,
    digest bytea,
    sequence bigint,
    content_type text,
    attributes text,
    processed_at bigint NOT NULL
);
CREATE TABLE version_2.meta (
    name text NOT NULL,
    value text NOT NULL
);
CREATE TABLE version_2.partitions (
    partition integer NOT NULL,
    last_offset bigint NOT NULL,
    last_processed_at bigint NOT NULL,
    topics bigint NOT NULL,
    stored bigint NOT NULL,
    duplicates bigint NOT NULL,
    conflicts bigint NOT NULL
)
WITH (fillfactor='50');
CREATE TABLE version_2.record_versions (
    bucket integer NOT NULL,
    last_version bigint NOT NULL,
    last_attempt bytea NOT NULL
)
WITH (fillfactor='50');
CREATE TABLE version_2.records (
    kind text NOT NULL COLLATE pg_catalog."C",
    name text NOT NULL COLLATE pg_catalog."C",
    version bigint NOT NULL,
    value bytea NOT NULL,
    attempt bytea NOT NULL
);
CREATE TABLE version_2.topics (
    partition integer NOT NULL,
    topic_id bigint NOT NULL,
    name text NOT NULL COLLATE pg_catalog."C",
    slot integer NOT NULL,
    scope integer NOT NULL,
    last_seq bigint NOT NULL,
    purged_seq bigint NOT NULL,
    purged_offset bigint NOT NULL,
    duplicates bigint NOT NULL,
    conflicts bigint NOT NULL
)
WITH (fillfactor='70');
INSERT INTO version_2.appends VALUES (0, '\x01a22f8dca619573ce15acc85fcbb77e', 1, 7, 1767225600000000);
INSERT INTO version_2.appends VALUES (0, '\x01a22f8dca99568bb8ee3e373aae7c02', 8, 14, 1767225601000000);
INSERT INTO version_2.appends VALUES (0, '\x01a22f8dca9ce99a33b4c53bfa7e6c93', 15, 21, 1767225602000000);
INSERT INTO version_2.appends VALUES (0, '\x01a22f8dca9dbe1643cd88430c538385', 22, 28, 1767225603000000);
INSERT INTO version_2.appends VALUES (0, '\x01a22f8dca9e99be17312d106929c8cf', 29, 35, 1767225604000000);
INSERT INTO version_2.appends VALUES (0, '\x01a22f8dca9f407e024043e7f4571dfd', 36, 42, 1767225605000000);
INSERT INTO version_2.appends VALUES (0, '\x01a22f8dcaa1f4873d2691d5b0834ff4', 43, 49, 1767225606000000);
INSERT INTO version_2.appends VALUES (0, '\x01a22f8dcaa27737da0107fd6264fd8d', 50, 56, 1767225607000000);
INSERT INTO version_2.appends VALUES (0, '\x01a22f8dcaa48ea682a5c80e7e983f8d', 57, 63, 1767225608000000);
INSERT INTO version_2.appends VALUES (0, '\x01a22f8dcaa5e2048ba02b3e58a5ba21', 64, 70, 1767225609000000);
INSERT INTO version_2.appends VALUES (0, '\x01a22f8dcaa70b05ecbfd83fcb0417b2', 71, 77, 1767225610000000);
INSERT INTO version_2.appends VALUES (0, '\x01a22f8dcaa866242d9794cc3612fdff', 78, 80, 1767225611000000);
INSERT INTO version_2.appends VALUES (0, '\x01a22f8dcaaa39f1e79f9eae3d431a89', 81, 80, 1767225612000000);
INSERT INTO version_2.appends VALUES (0, '\x01a22f8dcaab6cd533baf2f64b02323b', 81, 80, 1767225613000000);
INSERT INTO version_2.events VALUES (0, 13, 1, 13, 'order-12', 'shop-a', '', '2026-01-01T12:00:00.5+02:00', '{"order":12,"total":12.50}', NULL, 12, NULL, NULL, 1767225601000000);
INSERT INTO version_2.events VALUES (0, 14, 1, 14, 'order-13', 'shop-b', '', '2026-01-01T12:00:00.5+02:00', '{"order":13,"total":13.50}', NULL, NULL, NULL, NULL, 1767225601000000);
INSERT INTO version_2.events VALUES (0, 15, 1, 15, 'order-14', 'shop-a', '', '2026-01-01T12:00:00.5+02:00', '{"order":14,"total":14.50}', NULL, NULL, NULL, NULL, 1767225602000000);
INSERT INTO version_2.events VALUES (0, 16, 1, 16, 'order-15', 'shop-b', '', '2026-01-01T12:00:00.5+02:00', '{"order":15,"total":15.50}', NULL, 15, NULL, NULL, 1767225602000000);
INSERT INTO version_2.events VALUES (0, 17, 1, 17, 'order-16', 'shop-a', '', '2026-01-01T12:00:00.5+02:00', '{"order":16,"total":16.50}', NULL, NULL, NULL, NULL, 1767225602000000);
INSERT INTO version_2.events VALUES (0, 18, 1, 18, 'order-17', 'shop-b', '', '2026-01-01T12:00:00.5+02:00', '{"order":17,"total":17.50}', NULL, NULL, NULL, NULL, 1767225602000000);
INSERT INTO version_2.events VALUES (0, 19, 1, 19, 'order-18', 'shop-a', '', '2026-01-01T12:00:00.5+02:00', '{"order":18,"total":18.50}', NULL, 18, NULL, NULL, 1767225602000000);
INSERT INTO version_2.events VALUES (0, 20, 1, 20, 'order-19', 'shop-b', '', '2026-01-01T12:00:00.5+02:00', '{"order":19,"total":19.50}', NULL, NULL, NULL, NULL, 1767225602000000);
INSERT INTO version_2.events VALUES (0, 21, 1, 21, 'order-20', 'shop-a', '', '2026-01-01T12:00:00.5+02:00', '{"order":20,"total":20.50}', NULL, NULL, NULL, NULL, 1767225602000000);
INSERT INTO version_2.events VALUES (0, 22, 1, 22, 'order-21', 'shop-b', '', '2026-01-01T12:00:00.5+02:00', '{"order":21,"total":21.50}', NULL, 21, NULL, NULL, 1767225603000000);
INSERT INTO version_2.events VALUES (0, 23, 1, 23, 'order-22', 'shop-a', '', '2026-01-01T12:00:00.5+02:00', '{"order":22,"total":22.50}', NULL, NULL, NULL, NULL, 1767225603000000);
INSERT INTO version_2.events VALUES (0, 24, 1, 24, 'order-23', 'shop-b', '', '2026-01-01T12:00:00.5+02:00', '{"order":23,"total":23.50}', NULL, NULL, NULL, NULL, 1767225603000000);
INSERT INTO version_2.events VALUES (0, 25, 1, 25, 'order-24', 'shop-a', '', '2026-01-01T12:00:00.5+02:00', '{"order":24,"total":24.50}', NULL, 24, NULL, NULL, 1767225603000000);
INSERT INTO version_2.events VALUES (0, 26, 1, 26, 'order-25', 'shop-b', '', '2026-01-01T12:00:00.5+02:00', '{"order":25,"total":25.50}', NULL, NULL, NULL, NULL, 1767225603000000);
INSERT INTO version_2.events VALUES (0, 27, 1, 27, 'order-26', 'shop-a', '', '2026-01-01T12:00:00.5+02:00', '{"order":26,"total":26.50}', NULL, NULL, NULL, NULL, 1767225603000000);
INSERT INTO version_2.events VALUES (0, 28, 1, 28, 'order-27', 'shop-b', '', '2026-01-01T12:00:00.5+02:00', '{"order":27,"total":27.50}', NULL, 27, NULL, NULL, 1767225603000000);
INSERT INTO version_2.events VALUES (0, 29, 1, 29, 'order-28', 'shop-a', '', '2026-01-01T12:00:00.5+02:00', '{"order":28,"total":28.50}', NULL, NULL, NULL, NULL, 1767225604000000);
INSERT INTO version_2.events VALUES (0, 30, 1, 30, 'order-29', 'shop-b', '', '2026-01-01T12:00:00.5+02:00', '{"order":29,"total":29.50}', NULL, NULL, NULL, NULL, 1767225604000000);
INSERT INTO version_2.events VALUES (0, 31, 1, 31, 'order-30', 'shop-a', '', '2026-01-01T12:00:00.5+02:00', '{"order":30,"total":30.50}', NULL, 30, NULL, NULL, 1767225604000000);
INSERT INTO version_2.events VALUES (0, 32, 1, 32, 'order-31', 'shop-b', '', '2026-01-01T12:00:00.5+02:00', '{"order":31,"total":31.50}', NULL, NULL, NULL, NULL, 1767225604000000);
INSERT INTO version_2.events VALUES (0, 33, 1, 33, 'order-32', 'shop-a', '', '2026-01-01T12:00:00.5+02:00', '{"order":32,"total":32.50}', NULL, NULL, NULL, NULL, 1767225604000000);
INSERT INTO version_2.events VALUES (0, 34, 1, 34, 'order-33', 'shop-b', '', '2026-01-01T12:00:00.5+02:00', '{"order":33,"total":33.50}', NULL, 33, NULL, NULL, 1767225604000000);
INSERT INTO version_2.events VALUES (0, 35, 1, 35, 'order-34', 'shop-a', '', '2026-01-01T12:00:00.5+02:00', '{"order":34,"total":34.50}', NULL, NULL, NULL, NULL, 1767225604000000);
INSERT INTO version_2.events VALUES (0, 38, 1, 36, 'order-35', 'shop-b', '', '2026-01-01T12:00:00.5+02:00', '{"order":35,"total":35.50}', NULL, NULL, NULL, NULL, 1767225605000000);
INSERT INTO version_2.events VALUES (0, 39, 1, 37, 'order-36', 'shop-a', '', '2026-01-01T12:00:00.5+02:00', '{"order":36,"total":36.50}', NULL, 36, NULL, NULL, 1767225605000000);
INSERT INTO version_2.events VALUES (0, 40, 1, 38, 'order-37', 'shop-b', '', '2026-01-01T12:00:00.5+02:00', '{"order":37,"total":37.50}', NULL, NULL, NULL, NULL, 1767225605000000);
INSERT INTO version_2.events VALUES (0, 41, 1, 39, 'order-38', 'shop-a', '', '2026-01-01T12:00:00.5+02:00', '{"order":38,"total":38.50}', NULL, NULL, NULL, NULL, 1767225605000000);
INSERT INTO version_2.events VALUES (0, 42, 1, 40, 'order-39', 'shop-b', '', '2026-01-01T12:00:00.5+02:00', '{"order":39,"total":39.50}', NULL, 39, NULL, NULL, 1767225605000000);
INSERT INTO version_2.events VALUES (0, 44, 2, 4, '1', 'y z', 'y z', '2026-01-01T12:00:00.5+02:00', '{}', NULL, NULL, NULL, NULL, 1767225606000000);
INSERT INTO version_2.events VALUES (0, 45, 2, 5, '2', 'x', 'x', '2026-01-01T12:00:00.5+02:00', '{}', NULL, NULL, NULL, NULL, 1767225606000000);
INSERT INTO version_2.events VALUES (0, 46, 2, 6, '2', 'y z', 'y z', '2026-01-01T12:00:00.5+02:00', '{}', NULL, NULL, NULL, NULL, 1767225606000000);
INSERT INTO version_2.events VALUES (0, 47, 2, 7, '3', 'x', 'x', '2026-01-01T12:00:00.5+02:00', '{}', NULL, NULL, NULL, NULL, 1767225606000000);
INSERT INTO version_2.events VALUES (0, 48, 2, 8, '3', 'y z', 'y z', '2026-01-01T12:00:00.5+02:00', '{}', NULL, NULL, NULL, NULL, 1767225606000000);
INSERT INTO version_2.events VALUES (0, 49, 2, 9, '4', 'x', 'x', '2026-01-01T12:00:00.5+02:00', '{}', NULL, NULL, NULL, NULL, 1767225606000000);
INSERT INTO version_2.events VALUES (0, 50, 2, 10, '4', 'y z', 'y z', '2026-01-01T12:00:00.5+02:00', '{}', NULL, NULL, NULL, NULL, 1767225607000000);
INSERT INTO version_2.events VALUES (0, 51, 2, 11, '5', 'x', 'x', '2026-01-01T12:00:00.5+02:00', '{}', NULL, NULL, NULL, NULL, 1767225607000000);
INSERT INTO version_2.events VALUES (0, 52, 2, 12, '5', 'y z', 'y z', '2026-01-01T12:00:00.5+02:00', '{}', NULL, NULL, NULL, NULL, 1767225607000000);
INSERT INTO version_2.events VALUES (0, 53, 2, 13, '6', 'x', 'x', '2026-01-01T12:00:00.5+02:00', '{}', NULL, NULL, NULL, NULL, 1767225607000000);
INSERT INTO version_2.events VALUES (0, 54, 2, 14, '6', 'y z', 'y z', '2026-01-01T12:00:00.5+02:00', '{}', NULL, NULL, NULL, NULL, 1767225607000000);
INSERT INTO version_2.events VALUES (0, 55, 2, 15, '7', 'x', 'x', '2026-01-01T12:00:00.5+02:00', '{}', NULL, NULL, NULL, NULL, 1767225607000000);
INSERT INTO version_2.events VALUES (0, 56, 2, 16, '7', 'y z', 'y z', '2026-01-01T12:00:00.5+02:00', '{}', NULL, NULL, NULL, NULL, 1767225607000000);
INSERT INTO version_2.events VALUES (0, 57, 2, 17, '8', 'x', 'x', '2026-01-01T12:00:00.5+02:00', '{}', NULL, NULL, NULL, NULL, 1767225608000000);
INSERT INTO version_2.events VALUES (0, 36, 2, 1, '0', 'x', 'x', '2026-01-01T12:00:00.5+02:00', NULL, '\xdc7048f8f8747f561349cde127705c16', NULL, NULL, NULL, 1767225605000000);
INSERT INTO version_2.events VALUES (0, 37, 2, 2, '0', 'y z', 'y z', '2026-01-01T12:00:00.5+02:00', NULL, '\xdc7048f8f8747f561349cde127705c16', NULL, NULL, NULL, 1767225605000000);
INSERT INTO version_2.events VALUES (0, 43, 2, 3, '1', 'x', 'x', '2026-01-01T12:00:00.5+02:00', NULL, '\xdc7048f8f8747f561349cde127705c16', NULL, NULL, NULL, 1767225606000000);
INSERT INTO version_2.events VALUES (0, 58, 2, 18, '8', 'y z', 'y z', '2026-01-01T12:00:00.5+02:00', '{}', NULL, NULL, NULL, NULL, 1767225608000000);
INSERT INTO version_2.events VALUES (0, 59, 2, 19, '9', 'x', 'x', '2026-01-01T12:00:00.5+02:00', '{}', NULL, NULL, NULL, NULL, 1767225608000000);
INSERT INTO version_2.events VALUES (0, 60, 2, 20, '9', 'y z', 'y z', '2026-01-01T12:00:00.5+02:00', '{}', NULL, NULL, NULL, NULL, 1767225608000000);
INSERT INTO version_2.events VALUES (0, 61, 3, 1, 'ä', 'unknown', '', '2026-01-01T12:00:00.5+02:00', '{}', NULL, NULL, NULL, NULL, 1767225608000000);
INSERT INTO version_2.events VALUES (0, 62, 3, 2, 'ä', 'unknown', '', '2026-01-01T12:00:00.5+02:00', '{}', NULL, NULL, NULL, NULL, 1767225608000000);
INSERT INTO version_2.events VALUES (0, 63, 3, 3, 'Ä', 'unknown', '', '2026-01-01T12:00:00.5+02:00', '{}', NULL, NULL, NULL, NULL, 1767225608000000);
INSERT INTO version_2.events VALUES (0, 64, 3, 4, ' a', 'unknown', '', '2026-01-01T12:00:00.5+02:00', '{}', NULL, NULL, NULL, NULL, 1767225609000000);
INSERT INTO version_2.events VALUES (0, 65, 3, 5, 'a ', 'unknown', '', '2026-01-01T12:00:00.5+02:00', '{}', NULL, NULL, NULL, NULL, 1767225609000000);
INSERT INTO version_2.events VALUES (0, 66, 3, 6, 'a', 'unknown', '', '2026-01-01T12:00:00.5+02:00', '{}', NULL, NULL, NULL, NULL, 1767225609000000);
INSERT INTO version_2.events VALUES (0, 67, 3, 7, '%', 'unknown', '', '2026-01-01T12:00:00.5+02:00', '{}', NULL, NULL, NULL, NULL, 1767225609000000);
INSERT INTO version_2.events VALUES (0, 68, 3, 8, '\', 'unknown', '', '2026-01-01T12:00:00.5+02:00', '{}', NULL, NULL, NULL, NULL, 1767225609000000);
INSERT INTO version_2.events VALUES (0, 69, 3, 9, '''"', 'unknown', '', '2026-01-01T12:00:00.5+02:00', '{}', NULL, NULL, NULL, NULL, 1767225609000000);
INSERT INTO version_2.events VALUES (0, 70, 3, 10, '😀', 'unknown', '', '2026-01-01T12:00:00.5+02:00', '{}', NULL, NULL, NULL, NULL, 1767225609000000);
INSERT INTO version_2.events VALUES (0, 71, 3, 11, ' ', 'unknown', '', '2026-01-01T12:00:00.5+02:00', '{}', NULL, NULL, NULL, NULL, 1767225610000000);
INSERT INTO version_2.events VALUES (0, 72, 3, 12, 'NULL', 'unknown', '', '2026-01-01T12:00:00.5+02:00', '{}', NULL, NULL, NULL, NULL, 1767225610000000);
INSERT INTO version_2.events VALUES (0, 73, 4, 1, '0', 'unknown', '', '2026-01-01T12:00:00.5+02:00', 'null', NULL, NULL, NULL, NULL, 1767225610000000);
INSERT INTO version_2.events VALUES (0, 74, 4, 2, '1', 'unknown', '', '2026-01-01T12:00:00.5+02:00', '1e400', NULL, NULL, NULL, NULL, 1767225610000000);
INSERT INTO version_2.events VALUES (0, 75, 4, 3, '2', 'unknown', '', '2026-01-01T12:00:00.5+02:00', '-0.0', NULL, NULL, NULL, NULL, 1767225610000000);
INSERT INTO version_2.events VALUES (0, 76, 4, 4, '3', 'unknown', '', '2026-01-01T12:00:00.5+02:00', '"\u0000"', NULL, NULL, NULL, NULL, 1767225610000000);
INSERT INTO version_2.events VALUES (0, 77, 4, 5, '4', 'unknown', '', '2026-01-01T12:00:00.5+02:00', '{"a":1,"a":2}', NULL, NULL, NULL, NULL, 1767225610000000);
INSERT INTO version_2.events VALUES (0, 78, 4, 6, '5', 'unknown', '', '2026-01-01T12:00:00.5+02:00', '12345678901234567890123', NULL, NULL, NULL, NULL, 1767225611000000);
INSERT INTO version_2.events VALUES (0, 79, 4, 7, '6', 'unknown', '', '2026-01-01T12:00:00.5+02:00', '[[[[[[]]]]]]', NULL, NULL, NULL, NULL, 1767225611000000);
INSERT INTO version_2.events VALUES (0, 80, 4, 8, '7', 'unknown', '', '2026-01-01T12:00:00.5+02:00', '"ä €😀"', NULL, NULL, NULL, NULL, 1767225611000000);
INSERT INTO version_2.events VALUES (0, 1, 1, 1, 'order-0', 'shop-a', '', '2026-01-01T12:00:00.5+02:00', NULL, '\x48cdd0503301839c423da72ae63a5c54', 0, NULL, NULL, 1767225600000000);
INSERT INTO version_2.events VALUES (0, 2, 1, 2, 'order-1', 'shop-b', '', '2026-01-01T12:00:00.5+02:00', NULL, '\x240ce9e76dc5d08d5b7783636c9e1adc', NULL, NULL, NULL, 1767225600000000);
INSERT INTO version_2.events VALUES (0, 3, 1, 3, 'order-2', 'shop-a', '', '2026-01-01T12:00:00.5+02:00', NULL, '\xa305637b07e55886cbe0d92f07d9a3d3', NULL, NULL, NULL, 1767225600000000);
INSERT INTO version_2.events VALUES (0, 4, 1, 4, 'order-3', 'shop-b', '', '2026-01-01T12:00:00.5+02:00', NULL, '\xb54cbf5c995a905d1692872fc6d2c07d', 3, NULL, NULL, 1767225600000000);
INSERT INTO version_2.events VALUES (0, 5, 1, 5, 'order-4', 'shop-a', '', '2026-01-01T12:00:00.5+02:00', NULL, '\x6ca966a3fa953b306d822881e06c3d1b', NULL, NULL, NULL, 1767225600000000);
INSERT INTO version_2.events VALUES (0, 6, 1, 6, 'order-5', 'shop-b', '', '2026-01-01T12:00:00.5+02:00', NULL, '\xe3c2981d673594eae405cb3d666f7fec', NULL, NULL, NULL, 1767225600000000);
INSERT INTO version_2.events VALUES (0, 7, 1, 7, 'order-6', 'shop-a', '', '2026-01-01T12:00:00.5+02:00', NULL, '\xf5092602bbafc899718561a3808416bb', 6, NULL, NULL, 1767225600000000);
INSERT INTO version_2.events VALUES (0, 8, 1, 8, 'order-7', 'shop-b', '', '2026-01-01T12:00:00.5+02:00', NULL, '\xbad6f691e0c16fab0da0d1942c767bf6', NULL, NULL, NULL, 1767225601000000);
INSERT INTO version_2.events VALUES (0, 9, 1, 9, 'order-8', 'shop-a', '', '2026-01-01T12:00:00.5+02:00', NULL, '\x0e5b2e0312c796f34610bdc3d812d23e', NULL, NULL, NULL, 1767225601000000);
INSERT INTO version_2.events VALUES (0, 10, 1, 10, 'order-9', 'shop-b', '', '2026-01-01T12:00:00.5+02:00', NULL, '\x46066d599c72c013c9c5543f3be0e8af', 9, NULL, NULL, 1767225601000000);
INSERT INTO version_2.events VALUES (0, 11, 1, 11, 'order-10', 'shop-a', '', '2026-01-01T12:00:00.5+02:00', NULL, '\xc4e1f34a9a169968d883d0cb3161d054', NULL, NULL, NULL, 1767225601000000);
INSERT INTO version_2.events VALUES (0, 12, 1, 12, 'order-11', 'shop-b', '', '2026-01-01T12:00:00.5+02:00', NULL, '\xc3db03778d366d72aa245d1a7b6eaee6', NULL, NULL, NULL, 1767225601000000);
INSERT INTO version_2.events VALUES (0, 81, 5, NULL, 'old-0', 'unknown', '', '', NULL, NULL, NULL, NULL, NULL, 1770000000000000);
INSERT INTO version_2.events VALUES (0, 82, 5, NULL, 'old-1', 'unknown', '', '', NULL, NULL, NULL, NULL, NULL, 1770000000000000);
INSERT INTO version_2.events VALUES (0, 83, 5, NULL, 'old-2', 'unknown', '', '', NULL, NULL, NULL, NULL, NULL, 1770000000000000);
INSERT INTO version_2.events VALUES (0, 84, 5, NULL, 'old-3', 'unknown', '', '', NULL, NULL, NULL, NULL, NULL, 1770000000000000);
INSERT INTO version_2.events VALUES (0, 85, 5, NULL, 'old-4', 'unknown', '', '', NULL, NULL, NULL, NULL, NULL, 1770000000000000);
INSERT INTO version_2.events VALUES (0, 86, 5, NULL, 'old-5', 'unknown', '', '', NULL, NULL, NULL, NULL, NULL, 1770000000000000);
INSERT INTO version_2.events VALUES (0, 87, 5, NULL, 'old-6', 'unknown', '', '', NULL, NULL, NULL, NULL, NULL, 1770000000000000);
INSERT INTO version_2.events VALUES (0, 88, 5, NULL, 'old-7', 'unknown', '', '', NULL, NULL, NULL, NULL, NULL, 1770000000000000);
INSERT INTO version_2.events VALUES (0, 89, 5, NULL, 'old-8', 'unknown', '', '', NULL, NULL, NULL, NULL, NULL, 1770000000000000);
INSERT INTO version_2.events VALUES (0, 90, 5, NULL, 'old-9', 'unknown', '', '', NULL, NULL, NULL, NULL, NULL, 1770000000000000);
INSERT INTO version_2.events VALUES (0, 91, 6, NULL, '0', 's', 's', '', NULL, NULL, NULL, NULL, NULL, 1770000000000000);
INSERT INTO version_2.events VALUES (0, 92, 6, NULL, '1', 's', 's', '', NULL, NULL, NULL, NULL, NULL, 1770000000000000);
INSERT INTO version_2.events VALUES (0, 93, 6, NULL, '2', 's', 's', '', NULL, NULL, NULL, NULL, NULL, 1770000000000000);
INSERT INTO version_2.events VALUES (0, 94, 7, 1, 'i1', 'elsewhere', '', '2025-12-31T23:59:59+01:00', '{"imported":1}', NULL, 7, 'application/vnd.test+json', '{"trace":"00-ab","n":null}', 1770000000000000);
INSERT INTO version_2.events VALUES (0, 95, 7, 2, 'i2', 'elsewhere', '', '2025-12-31T23:59:59+01:00', '{"imported":2}', NULL, 14, 'application/vnd.test+json', '{"trace":"00-ab","n":null}', 1770000000000000);
INSERT INTO version_2.events VALUES (0, 96, 7, 3, 'i3', 'elsewhere', '', '2025-12-31T23:59:59+01:00', '{"imported":3}', NULL, 21, 'application/vnd.test+json', '{"trace":"00-ab","n":null}', 1770000000000000);
INSERT INTO version_2.events VALUES (0, 97, 7, 4, 'i4', 'elsewhere', '', '2025-12-31T23:59:59+01:00', '{"imported":4}', NULL, 28, 'application/vnd.test+json', '{"trace":"00-ab","n":null}', 1770000000000000);
INSERT INTO version_2.events VALUES (0, 98, 7, 5, 'i5', 'elsewhere', '', '2025-12-31T23:59:59+01:00', '{"imported":5}', NULL, 35, 'application/vnd.test+json', '{"trace":"00-ab","n":null}', 1770000000000000);
INSERT INTO version_2.meta VALUES ('store_id', '01a22f8dca4c22149188ddfecfebd8cb');
INSERT INTO version_2.meta VALUES ('partitions', '1');
INSERT INTO version_2.meta VALUES ('hash_version', 'xxh3-64');
INSERT INTO version_2.meta VALUES ('schema_version', '1');
INSERT INTO version_2.meta VALUES ('tables_version', '2');
INSERT INTO version_2.partitions VALUES (0, 98, 1770000000000000, 7, 85, 7, 2);
INSERT INTO version_2.record_versions VALUES (0, 0, '\x');
INSERT INTO version_2.record_versions VALUES (1, 0, '\x');
INSERT INTO version_2.record_versions VALUES (2, 0, '\x');
INSERT INTO version_2.record_versions VALUES (3, 0, '\x');
INSERT INTO version_2.record_versions VALUES (4, 0, '\x');
INSERT INTO version_2.record_versions VALUES (5, 0, '\x');
INSERT INTO version_2.record_versions VALUES (6, 0, '\x');
INSERT INTO version_2.record_versions VALUES (7, 0, '\x');
INSERT INTO version_2.record_versions VALUES (8, 0, '\x');
INSERT INTO version_2.record_versions VALUES (9, 0, '\x');
INSERT INTO version_2.record_versions VALUES (10, 0, '\x');
INSERT INTO version_2.record_versions VALUES (11, 0, '\x');
INSERT INTO version_2.record_versions VALUES (12, 0, '\x');
INSERT INTO version_2.record_versions VALUES (13, 0, '\x');
INSERT INTO version_2.record_versions VALUES (14, 0, '\x');
INSERT INTO version_2.record_versions VALUES (15, 0, '\x');
INSERT INTO version_2.record_versions VALUES (16, 0, '\x');
INSERT INTO version_2.record_versions VALUES (17, 0, '\x');
INSERT INTO version_2.record_versions VALUES (18, 0, '\x');
INSERT INTO version_2.record_versions VALUES (19, 0, '\x');
INSERT INTO version_2.record_versions VALUES (20, 0, '\x');
INSERT INTO version_2.record_versions VALUES (21, 0, '\x');
INSERT INTO version_2.record_versions VALUES (22, 0, '\x');
INSERT INTO version_2.record_versions VALUES (23, 0, '\x');
INSERT INTO version_2.record_versions VALUES (24, 0, '\x');
INSERT INTO version_2.record_versions VALUES (25, 0, '\x');
INSERT INTO version_2.record_versions VALUES (26, 0, '\x');
INSERT INTO version_2.record_versions VALUES (27, 0, '\x');
INSERT INTO version_2.record_versions VALUES (28, 0, '\x');
INSERT INTO version_2.record_versions VALUES (29, 0, '\x');
INSERT INTO version_2.record_versions VALUES (30, 0, '\x');
INSERT INTO version_2.record_versions VALUES (31, 0, '\x');
INSERT INTO version_2.record_versions VALUES (32, 0, '\x');
INSERT INTO version_2.record_versions VALUES (33, 0, '\x');
INSERT INTO version_2.record_versions VALUES (34, 0, '\x');
INSERT INTO version_2.record_versions VALUES (35, 0, '\x');
INSERT INTO version_2.record_versions VALUES (36, 0, '\x');
INSERT INTO version_2.record_versions VALUES (37, 0, '\x');
INSERT INTO version_2.record_versions VALUES (38, 0, '\x');
INSERT INTO version_2.record_versions VALUES (39, 0, '\x');
INSERT INTO version_2.record_versions VALUES (40, 0, '\x');
INSERT INTO version_2.record_versions VALUES (41, 0, '\x');
INSERT INTO version_2.record_versions VALUES (42, 0, '\x');
INSERT INTO version_2.record_versions VALUES (43, 0, '\x');
INSERT INTO version_2.record_versions VALUES (44, 0, '\x');
INSERT INTO version_2.record_versions VALUES (45, 0, '\x');
INSERT INTO version_2.record_versions VALUES (46, 0, '\x');
INSERT INTO version_2.record_versions VALUES (47, 0, '\x');
INSERT INTO version_2.record_versions VALUES (48, 0, '\x');
INSERT INTO version_2.record_versions VALUES (49, 0, '\x');
INSERT INTO version_2.record_versions VALUES (50, 0, '\x');
INSERT INTO version_2.record_versions VALUES (51, 0, '\x');
INSERT INTO version_2.record_versions VALUES (52, 0, '\x');
INSERT INTO version_2.record_versions VALUES (53, 0, '\x');
INSERT INTO version_2.record_versions VALUES (54, 0, '\x');
INSERT INTO version_2.record_versions VALUES (55, 0, '\x');
INSERT INTO version_2.record_versions VALUES (56, 0, '\x');
INSERT INTO version_2.record_versions VALUES (57, 0, '\x');
INSERT INTO version_2.record_versions VALUES (58, 0, '\x');
INSERT INTO version_2.record_versions VALUES (59, 0, '\x');
INSERT INTO version_2.record_versions VALUES (60, 0, '\x');
INSERT INTO version_2.record_versions VALUES (61, 0, '\x');
INSERT INTO version_2.record_versions VALUES (62, 0, '\x');
INSERT INTO version_2.record_versions VALUES (63, 0, '\x');
INSERT INTO version_2.record_versions VALUES (64, 0, '\x');
INSERT INTO version_2.record_versions VALUES (65, 0, '\x');
INSERT INTO version_2.record_versions VALUES (66, 0, '\x');
INSERT INTO version_2.record_versions VALUES (67, 0, '\x');
INSERT INTO version_2.record_versions VALUES (68, 0, '\x');
INSERT INTO version_2.record_versions VALUES (69, 0, '\x');
INSERT INTO version_2.record_versions VALUES (70, 0, '\x');
INSERT INTO version_2.record_versions VALUES (71, 0, '\x');
INSERT INTO version_2.record_versions VALUES (72, 0, '\x');
INSERT INTO version_2.record_versions VALUES (73, 0, '\x');
INSERT INTO version_2.record_versions VALUES (74, 0, '\x');
INSERT INTO version_2.record_versions VALUES (75, 0, '\x');
INSERT INTO version_2.record_versions VALUES (76, 0, '\x');
INSERT INTO version_2.record_versions VALUES (77, 0, '\x');
INSERT INTO version_2.record_versions VALUES (78, 0, '\x');
INSERT INTO version_2.record_versions VALUES (79, 0, '\x');
INSERT INTO version_2.record_versions VALUES (80, 0, '\x');
INSERT INTO version_2.record_versions VALUES (81, 0, '\x');
INSERT INTO version_2.record_versions VALUES (82, 0, '\x');
INSERT INTO version_2.record_versions VALUES (83, 0, '\x');
INSERT INTO version_2.record_versions VALUES (84, 0, '\x');
INSERT INTO version_2.record_versions VALUES (85, 0, '\x');
INSERT INTO version_2.record_versions VALUES (86, 0, '\x');
INSERT INTO version_2.record_versions VALUES (87, 0, '\x');
INSERT INTO version_2.record_versions VALUES (88, 0, '\x');
INSERT INTO version_2.record_versions VALUES (89, 0, '\x');
INSERT INTO version_2.record_versions VALUES (90, 0, '\x');
INSERT INTO version_2.record_versions VALUES (91, 0, '\x');
INSERT INTO version_2.record_versions VALUES (92, 0, '\x');
INSERT INTO version_2.record_versions VALUES (93, 0, '\x');
INSERT INTO version_2.record_versions VALUES (94, 0, '\x');
INSERT INTO version_2.record_versions VALUES (95, 0, '\x');
INSERT INTO version_2.record_versions VALUES (96, 0, '\x');
INSERT INTO version_2.record_versions VALUES (97, 0, '\x');
INSERT INTO version_2.record_versions VALUES (98, 0, '\x');
INSERT INTO version_2.record_versions VALUES (99, 0, '\x');
INSERT INTO version_2.record_versions VALUES (100, 0, '\x');
INSERT INTO version_2.record_versions VALUES (101, 0, '\x');
INSERT INTO version_2.record_versions VALUES (102, 0, '\x');
INSERT INTO version_2.record_versions VALUES (103, 0, '\x');
INSERT INTO version_2.record_versions VALUES (104, 0, '\x');
INSERT INTO version_2.record_versions VALUES (105, 0, '\x');
INSERT INTO version_2.record_versions VALUES (106, 0, '\x');
INSERT INTO version_2.record_versions VALUES (107, 0, '\x');
INSERT INTO version_2.record_versions VALUES (108, 0, '\x');
INSERT INTO version_2.record_versions VALUES (109, 0, '\x');
INSERT INTO version_2.record_versions VALUES (110, 0, '\x');
INSERT INTO version_2.record_versions VALUES (111, 0, '\x');
INSERT INTO version_2.record_versions VALUES (112, 0, '\x');
INSERT INTO version_2.record_versions VALUES (113, 0, '\x');
INSERT INTO version_2.record_versions VALUES (114, 0, '\x');
INSERT INTO version_2.record_versions VALUES (115, 0, '\x');
INSERT INTO version_2.record_versions VALUES (116, 0, '\x');
INSERT INTO version_2.record_versions VALUES (117, 0, '\x');
INSERT INTO version_2.record_versions VALUES (118, 0, '\x');
INSERT INTO version_2.record_versions VALUES (119, 0, '\x');
INSERT INTO version_2.record_versions VALUES (120, 0, '\x');
INSERT INTO version_2.record_versions VALUES (121, 0, '\x');
INSERT INTO version_2.record_versions VALUES (122, 0, '\x');
INSERT INTO version_2.record_versions VALUES (123, 0, '\x');
INSERT INTO version_2.record_versions VALUES (124, 0, '\x');
INSERT INTO version_2.record_versions VALUES (125, 0, '\x');
INSERT INTO version_2.record_versions VALUES (126, 0, '\x');
INSERT INTO version_2.record_versions VALUES (127, 0, '\x');
INSERT INTO version_2.record_versions VALUES (128, 0, '\x');
INSERT INTO version_2.record_versions VALUES (129, 0, '\x');
INSERT INTO version_2.record_versions VALUES (130, 0, '\x');
INSERT INTO version_2.record_versions VALUES (131, 0, '\x');
INSERT INTO version_2.record_versions VALUES (132, 0, '\x');
INSERT INTO version_2.record_versions VALUES (133, 0, '\x');
INSERT INTO version_2.record_versions VALUES (134, 0, '\x');
INSERT INTO version_2.record_versions VALUES (135, 0, '\x');
INSERT INTO version_2.record_versions VALUES (136, 0, '\x');
INSERT INTO version_2.record_versions VALUES (137, 0, '\x');
INSERT INTO version_2.record_versions VALUES (138, 0, '\x');
INSERT INTO version_2.record_versions VALUES (139, 0, '\x');
INSERT INTO version_2.record_versions VALUES (140, 0, '\x');
INSERT INTO version_2.record_versions VALUES (141, 0, '\x');
INSERT INTO version_2.record_versions VALUES (142, 0, '\x');
INSERT INTO version_2.record_versions VALUES (143, 0, '\x');
INSERT INTO version_2.record_versions VALUES (144, 0, '\x');
INSERT INTO version_2.record_versions VALUES (145, 0, '\x');
INSERT INTO version_2.record_versions VALUES (146, 0, '\x');
INSERT INTO version_2.record_versions VALUES (147, 0, '\x');
INSERT INTO version_2.record_versions VALUES (148, 0, '\x');
INSERT INTO version_2.record_versions VALUES (149, 0, '\x');
INSERT INTO version_2.record_versions VALUES (150, 0, '\x');
INSERT INTO version_2.record_versions VALUES (151, 0, '\x');
INSERT INTO version_2.record_versions VALUES (152, 0, '\x');
INSERT INTO version_2.record_versions VALUES (153, 0, '\x');
INSERT INTO version_2.record_versions VALUES (154, 0, '\x');
INSERT INTO version_2.record_versions VALUES (155, 0, '\x');
INSERT INTO version_2.record_versions VALUES (156, 0, '\x');
INSERT INTO version_2.record_versions VALUES (157, 0, '\x');
INSERT INTO version_2.record_versions VALUES (158, 0, '\x');
INSERT INTO version_2.record_versions VALUES (159, 0, '\x');
INSERT INTO version_2.record_versions VALUES (160, 0, '\x');
INSERT INTO version_2.record_versions VALUES (161, 0, '\x');
INSERT INTO version_2.record_versions VALUES (162, 0, '\x');
INSERT INTO version_2.record_versions VALUES (163, 0, '\x');
INSERT INTO version_2.record_versions VALUES (164, 0, '\x');
INSERT INTO version_2.record_versions VALUES (165, 0, '\x');
INSERT INTO version_2.record_versions VALUES (166, 0, '\x');
INSERT INTO version_2.record_versions VALUES (167, 0, '\x');
INSERT INTO version_2.record_versions VALUES (168, 0, '\x');
INSERT INTO version_2.record_versions VALUES (169, 0, '\x');
INSERT INTO version_2.record_versions VALUES (170, 0, '\x');
INSERT INTO version_2.record_versions VALUES (171, 0, '\x');
INSERT INTO version_2.record_versions VALUES (172, 0, '\x');
INSERT INTO version_2.record_versions VALUES (173, 0, '\x');
INSERT INTO version_2.record_versions VALUES (174, 0, '\x');
INSERT INTO version_2.record_versions VALUES (175, 0, '\x');
INSERT INTO version_2.record_versions VALUES (176, 0, '\x');
INSERT INTO version_2.record_versions VALUES (177, 0, '\x');
INSERT INTO version_2.record_versions VALUES (178, 0, '\x');
INSERT INTO version_2.record_versions VALUES (179, 0, '\x');
INSERT INTO version_2.record_versions VALUES (180, 0, '\x');
INSERT INTO version_2.record_versions VALUES (181, 0, '\x');
INSERT INTO version_2.record_versions VALUES (182, 0, '\x');
INSERT INTO version_2.record_versions VALUES (183, 0, '\x');
INSERT INTO version_2.record_versions VALUES (184, 0, '\x');
INSERT INTO version_2.record_versions VALUES (185, 0, '\x');
INSERT INTO version_2.record_versions VALUES (186, 0, '\x');
INSERT INTO version_2.record_versions VALUES (187, 0, '\x');
INSERT INTO version_2.record_versions VALUES (188, 0, '\x');
INSERT INTO version_2.record_versions VALUES (189, 0, '\x');
INSERT INTO version_2.record_versions VALUES (190, 0, '\x');
INSERT INTO version_2.record_versions VALUES (191, 0, '\x');
INSERT INTO version_2.record_versions VALUES (192, 0, '\x');
INSERT INTO version_2.record_versions VALUES (193, 0, '\x');
INSERT INTO version_2.record_versions VALUES (194, 0, '\x');
INSERT INTO version_2.record_versions VALUES (195, 0, '\x');
INSERT INTO version_2.record_versions VALUES (196, 0, '\x');
INSERT INTO version_2.record_versions VALUES (197, 0, '\x');
INSERT INTO version_2.record_versions VALUES (198, 0, '\x');
INSERT INTO version_2.record_versions VALUES (199, 0, '\x');
INSERT INTO version_2.record_versions VALUES (200, 0, '\x');
INSERT INTO version_2.record_versions VALUES (201, 0, '\x');
INSERT INTO version_2.record_versions VALUES (202, 0, '\x');
INSERT INTO version_2.record_versions VALUES (203, 0, '\x');
INSERT INTO version_2.record_versions VALUES (204, 0, '\x');
INSERT INTO version_2.record_versions VALUES (205, 0, '\x');
INSERT INTO version_2.record_versions VALUES (206, 0, '\x');
INSERT INTO version_2.record_versions VALUES (207, 0, '\x');
INSERT INTO version_2.record_versions VALUES (208, 0, '\x');
INSERT INTO version_2.record_versions VALUES (209, 0, '\x');
INSERT INTO version_2.record_versions VALUES (210, 0, '\x');
INSERT INTO version_2.record_versions VALUES (211, 0, '\x');
INSERT INTO version_2.record_versions VALUES (212, 0, '\x');
INSERT INTO version_2.record_versions VALUES (213, 0, '\x');
INSERT INTO version_2.record_versions VALUES (214, 0, '\x');
INSERT INTO version_2.record_versions VALUES (215, 0, '\x');
INSERT INTO version_2.record_versions VALUES (216, 0, '\x');
INSERT INTO version_2.record_versions VALUES (217, 0, '\x');
INSERT INTO version_2.record_versions VALUES (218, 0, '\x');
INSERT INTO version_2.record_versions VALUES (219, 0, '\x');
INSERT INTO version_2.record_versions VALUES (220, 0, '\x');
INSERT INTO version_2.record_versions VALUES (221, 0, '\x');
INSERT INTO version_2.record_versions VALUES (222, 0, '\x');
INSERT INTO version_2.record_versions VALUES (223, 0, '\x');
INSERT INTO version_2.record_versions VALUES (224, 0, '\x');
INSERT INTO version_2.record_versions VALUES (225, 0, '\x');
INSERT INTO version_2.record_versions VALUES (226, 0, '\x');
INSERT INTO version_2.record_versions VALUES (227, 0, '\x');
INSERT INTO version_2.record_versions VALUES (228, 0, '\x');
INSERT INTO version_2.record_versions VALUES (229, 0, '\x');
INSERT INTO version_2.record_versions VALUES (230, 0, '\x');
INSERT INTO version_2.record_versions VALUES (231, 0, '\x');
INSERT INTO version_2.record_versions VALUES (232, 0, '\x');
INSERT INTO version_2.record_versions VALUES (233, 0, '\x');
INSERT INTO version_2.record_versions VALUES (234, 0, '\x');
INSERT INTO version_2.record_versions VALUES (235, 0, '\x');
INSERT INTO version_2.record_versions VALUES (236, 0, '\x');
INSERT INTO version_2.record_versions VALUES (237, 0, '\x');
INSERT INTO version_2.record_versions VALUES (238, 0, '\x');
INSERT INTO version_2.record_versions VALUES (239, 0, '\x');
INSERT INTO version_2.record_versions VALUES (240, 0, '\x');
INSERT INTO version_2.record_versions VALUES (241, 0, '\x');
INSERT INTO version_2.record_versions VALUES (242, 0, '\x');
INSERT INTO version_2.record_versions VALUES (243, 0, '\x');
INSERT INTO version_2.record_versions VALUES (244, 0, '\x');
INSERT INTO version_2.record_versions VALUES (245, 0, '\x');
INSERT INTO version_2.record_versions VALUES (246, 0, '\x');
INSERT INTO version_2.record_versions VALUES (247, 0, '\x');
INSERT INTO version_2.record_versions VALUES (248, 0, '\x');
INSERT INTO version_2.record_versions VALUES (249, 0, '\x');
INSERT INTO version_2.record_versions VALUES (250, 0, '\x');
INSERT INTO version_2.record_versions VALUES (251, 0, '\x');
INSERT INTO version_2.record_versions VALUES (252, 0, '\x');
INSERT INTO version_2.record_versions VALUES (253, 0, '\x');
INSERT INTO version_2.record_versions VALUES (254, 0, '\x');
INSERT INTO version_2.record_versions VALUES (255, 0, '\x');
INSERT INTO version_2.topics VALUES (0, 3, 'strange.ids', 873, 0, 12, 0, 0, 0, 0);
INSERT INTO version_2.topics VALUES (0, 4, 'strange.payloads', 427, 0, 8, 0, 0, 0, 0);
INSERT INTO version_2.topics VALUES (0, 1, 'orders.created', 887, 0, 40, 12, 12, 6, 1);
INSERT INTO version_2.topics VALUES (0, 2, 'by-source', 730, 1, 20, 3, 43, 1, 1);
INSERT INTO version_2.topics VALUES (0, 5, 'legacy', 716, 0, 0, 0, 0, 0, 0);
INSERT INTO version_2.topics VALUES (0, 6, 'legacy.by-source', 82, 1, 0, 0, 0, 0, 0);
INSERT INTO version_2.topics VALUES (0, 7, 'imported', 70, 0, 5, 0, 0, 0, 0);
ALTER TABLE ONLY version_2.appends
    ADD CONSTRAINT appends_pkey PRIMARY KEY (partition, attempt_id);
ALTER TABLE ONLY version_2.events
    ADD CONSTRAINT events_identity_key UNIQUE (partition, topic_id, event_id, source_key);
ALTER TABLE ONLY version_2.events
    ADD CONSTRAINT events_pkey PRIMARY KEY (partition, "offset");
ALTER TABLE ONLY version_2.meta
    ADD CONSTRAINT meta_pkey PRIMARY KEY (name);
ALTER TABLE ONLY version_2.partitions
    ADD CONSTRAINT partitions_pkey PRIMARY KEY (partition);
ALTER TABLE ONLY version_2.record_versions
    ADD CONSTRAINT record_versions_pkey PRIMARY KEY (bucket);
ALTER TABLE ONLY version_2.records
    ADD CONSTRAINT records_pkey PRIMARY KEY (kind, name);
ALTER TABLE ONLY version_2.topics
    ADD CONSTRAINT topics_name_key UNIQUE (partition, name);
ALTER TABLE ONLY version_2.topics
    ADD CONSTRAINT topics_pkey PRIMARY KEY (partition, topic_id);
CREATE INDEX appends_by_age ON version_2.appends USING btree (partition, at);
CREATE INDEX events_by_topic ON version_2.events USING btree (partition, ((topic_id + 0)), "offset");
CREATE INDEX topics_by_name ON version_2.topics USING btree (name);
CREATE INDEX topics_purged ON version_2.topics USING btree (partition, purged_offset) WHERE (purged_offset > 0);
