BEGIN TRANSACTION;
CREATE TABLE counts (
	evaluation_id VARCHAR NOT NULL, 
	status VARCHAR NOT NULL, 
	shards INTEGER NOT NULL, 
	images INTEGER NOT NULL, 
	passes INTEGER NOT NULL, 
	runs INTEGER NOT NULL, 
	seconds FLOAT NOT NULL, 
	PRIMARY KEY (evaluation_id, status), 
	FOREIGN KEY(evaluation_id) REFERENCES evaluations (id)
);
INSERT INTO "counts" VALUES('0000000000000000','pending',0,0,0,0,0.0);
INSERT INTO "counts" VALUES('0000000000000000','running',0,0,0,0,0.0);
INSERT INTO "counts" VALUES('0000000000000000','done',1,2,2,1,0.5);
INSERT INTO "counts" VALUES('0000000000000001','pending',0,0,0,0,0.0);
INSERT INTO "counts" VALUES('0000000000000001','running',1,3,3,1,0.0);
CREATE TABLE dispatch (
	token INTEGER NOT NULL, 
	seen_at FLOAT NOT NULL, 
	locked BOOLEAN NOT NULL, 
	PRIMARY KEY (token)
);
INSERT INTO "dispatch" VALUES(1,1.79583105527520704271e+09,1);
CREATE TABLE evaluations (
	id VARCHAR NOT NULL, 
	sequence INTEGER NOT NULL, 
	"plan" TEXT NOT NULL, 
	created_at FLOAT NOT NULL, 
	cancelled_at FLOAT, 
	PRIMARY KEY (id), 
	UNIQUE (sequence)
);
INSERT INTO "evaluations" VALUES('0000000000000000',1,'{"id":"0000000000000000","spec":{"models":["tiny"],"dataset":"shapes","class_map":null,"logits":"all","images":null,"on_broken":"fail","conditions":[{"kind":"clean"}],"precision":"float32","stop_width":null,"seed":0,"selection_seed":0},"images":2,"shard_images":100,"classes":3,"matches":{"tiny":{"rule":"name","logits":[0,1,2],"model_classes":3}},"sources":{},"dataset_sha256":"0000000000000000000000000000000000000000000000000000000000000000","model_sha256":{"tiny":"eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee"},"skipped":[],"claimed_accuracy":{},"other_claims":{}}',1.79583105524354791644e+09,NULL);
INSERT INTO "evaluations" VALUES('0000000000000001',2,'{"id":"0000000000000001","spec":{"models":["tiny"],"dataset":"shapes","class_map":null,"logits":"all","images":null,"on_broken":"fail","conditions":[{"kind":"clean"}],"precision":"float32","stop_width":null,"seed":0,"selection_seed":0},"images":3,"shard_images":100,"classes":3,"matches":{"tiny":{"rule":"name","logits":[0,1,2],"model_classes":3}},"sources":{},"dataset_sha256":"0000000000000000000000000000000000000000000000000000000000000001","model_sha256":{"tiny":"eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee"},"skipped":[],"claimed_accuracy":{},"other_claims":{}}',1.7958310552688570023e+09,NULL);
CREATE TABLE idempotency_keys (
	"key" VARCHAR NOT NULL, 
	body_sha256 VARCHAR NOT NULL, 
	evaluation_id VARCHAR NOT NULL, 
	PRIMARY KEY ("key"), 
	FOREIGN KEY(evaluation_id) REFERENCES evaluations (id)
);
INSERT INTO "idempotency_keys" VALUES('alice k','one','0000000000000000');
CREATE TABLE owners (
	evaluation_id VARCHAR NOT NULL, 
	owner VARCHAR NOT NULL, 
	PRIMARY KEY (evaluation_id, owner), 
	FOREIGN KEY(evaluation_id) REFERENCES evaluations (id)
);
INSERT INTO "owners" VALUES('0000000000000000','alice');
INSERT INTO "owners" VALUES('0000000000000001','alice');
CREATE TABLE results (
	address VARCHAR NOT NULL, 
	images INTEGER NOT NULL, 
	seconds FLOAT NOT NULL, 
	tally TEXT NOT NULL, 
	result TEXT NOT NULL, 
	PRIMARY KEY (address, images)
);
INSERT INTO "results" VALUES('e27c545aab280dfd8299e53b4a7d87354709caed2245d81203c3190698f76b04',2,0.5,'{"shard":{"model":"tiny","condition":0,"start":0,"stop":2},"scored":2,"clean_right":2,"right":2,"in_top5":2,"labels":{"0":2},"images_forwarded":2,"seconds":0.5}','{"shard":{"model":"tiny","condition":0,"start":0,"stop":2},"rounds":1,"rows":[{"index":0,"label":0,"clean_prediction":0,"clean_confidence":0.75,"prediction":0,"confidence":null,"rank":0,"distance":null,"within_budget":true,"reached":null,"flipped_by":null,"flipped_restart":null,"flipped_step":null,"flipped_eps":null,"flipped_in_float32":false},{"index":1,"label":0,"clean_prediction":0,"clean_confidence":0.75,"prediction":0,"confidence":null,"rank":0,"distance":null,"within_budget":true,"reached":null,"flipped_by":null,"flipped_restart":null,"flipped_step":null,"flipped_eps":null,"flipped_in_float32":false}],"images_forwarded":2,"seconds":0.5,"preflight":[],"checks":[],"flipped_by_checks":[],"not_run":[],"examples":[],"made_with":""}');
CREATE TABLE shards (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	evaluation_id VARCHAR NOT NULL, 
	model VARCHAR NOT NULL, 
	condition INTEGER NOT NULL, 
	start INTEGER NOT NULL, 
	address VARCHAR NOT NULL, 
	images INTEGER NOT NULL, 
	images_done INTEGER DEFAULT '0' NOT NULL, 
	passes INTEGER NOT NULL, 
	status VARCHAR NOT NULL, 
	failures INTEGER NOT NULL, 
	kills INTEGER NOT NULL, 
	runs INTEGER NOT NULL, 
	error TEXT, 
	seconds FLOAT, 
	finished INTEGER, 
	UNIQUE (evaluation_id, model, condition, start), 
	FOREIGN KEY(evaluation_id) REFERENCES evaluations (id)
);
INSERT INTO "shards" VALUES(1,'0000000000000000','tiny',0,0,'e27c545aab280dfd8299e53b4a7d87354709caed2245d81203c3190698f76b04',2,0,2,'done',0,0,1,NULL,0.5,1);
INSERT INTO "shards" VALUES(2,'0000000000000001','tiny',0,0,'5f7d0e08c7685e67f986cac4f24e5997862ea4009721e6b1cc3f25ed7eb65a18',3,0,3,'running',0,0,1,NULL,NULL,NULL);
CREATE TABLE traces (
	evaluation_id VARCHAR NOT NULL, 
	context TEXT NOT NULL, 
	since FLOAT NOT NULL, 
	PRIMARY KEY (evaluation_id), 
	FOREIGN KEY(evaluation_id) REFERENCES evaluations (id)
);
INSERT INTO "traces" VALUES('0000000000000001','00-00000000000000000000000000000001-0000000000000001-01',1.79583105527006411548e+09);
CREATE INDEX shards_by_evaluation ON shards (evaluation_id, status);
CREATE INDEX shards_with_errors ON shards (evaluation_id) WHERE error IS NOT NULL;
CREATE INDEX shards_by_address ON shards (address, images);
CREATE INDEX shards_by_finish ON shards (evaluation_id, finished);
CREATE TRIGGER counts_insert AFTER insert ON shards BEGIN INSERT INTO counts (evaluation_id, status, shards, images, passes, runs, seconds) VALUES (new.evaluation_id, new.status, coalesce(1, 0), coalesce(new.images, 0), coalesce(new.passes, 0), coalesce(new.runs, 0), coalesce(new.seconds, 0)) ON CONFLICT (evaluation_id, status) DO UPDATE SET shards = shards + excluded.shards, images = images + excluded.images, passes = passes + excluded.passes, runs = runs + excluded.runs, seconds = seconds + excluded.seconds; END;
CREATE TRIGGER counts_delete AFTER delete ON shards BEGIN UPDATE counts SET shards = shards - coalesce(1, 0), images = images - coalesce(old.images, 0), passes = passes - coalesce(old.passes, 0), runs = runs - coalesce(old.runs, 0), seconds = seconds - coalesce(old.seconds, 0) WHERE evaluation_id = old.evaluation_id AND status = old.status; END;
CREATE TRIGGER counts_update AFTER update of status, images, passes, runs, seconds ON shards BEGIN UPDATE counts SET shards = shards - coalesce(1, 0), images = images - coalesce(old.images, 0), passes = passes - coalesce(old.passes, 0), runs = runs - coalesce(old.runs, 0), seconds = seconds - coalesce(old.seconds, 0) WHERE evaluation_id = old.evaluation_id AND status = old.status; INSERT INTO counts (evaluation_id, status, shards, images, passes, runs, seconds) VALUES (new.evaluation_id, new.status, coalesce(1, 0), coalesce(new.images, 0), coalesce(new.passes, 0), coalesce(new.runs, 0), coalesce(new.seconds, 0)) ON CONFLICT (evaluation_id, status) DO UPDATE SET shards = shards + excluded.shards, images = images + excluded.images, passes = passes + excluded.passes, runs = runs + excluded.runs, seconds = seconds + excluded.seconds; END;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('shards',2);
COMMIT;
