-- A node may be in several networks, and a peer is where it is in each of them. Of peers known before,
-- the network is not: they stand under no name.

ALTER TABLE peers RENAME TO peers_of_one;

CREATE TABLE peers (
    network      TEXT    NOT NULL,
    peer         BLOB    NOT NULL,
    addresses    BLOB    NOT NULL,
    last_seen_ms INTEGER NOT NULL,
    PRIMARY KEY (network, peer)
) STRICT, WITHOUT ROWID;

INSERT INTO peers SELECT '', peer, addresses, last_seen_ms FROM peers_of_one;
DROP TABLE peers_of_one;
