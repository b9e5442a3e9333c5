BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('v3.2.0.a');
CREATE TABLE studies (
	study_id INTEGER NOT NULL, 
	study_name VARCHAR(512) NOT NULL, 
	PRIMARY KEY (study_id)
);
INSERT INTO "studies" VALUES(1,'qa_tiny');
CREATE TABLE study_directions (
	study_direction_id INTEGER NOT NULL, 
	direction VARCHAR(8) NOT NULL, 
	study_id INTEGER NOT NULL, 
	objective INTEGER NOT NULL, 
	PRIMARY KEY (study_direction_id), 
	UNIQUE (study_id, objective), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "study_directions" VALUES(1,'MAXIMIZE',1,0);
CREATE TABLE study_system_attributes (
	study_system_attribute_id INTEGER NOT NULL, 
	study_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (study_system_attribute_id), 
	UNIQUE (study_id, "key"), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
CREATE TABLE study_user_attributes (
	study_user_attribute_id INTEGER NOT NULL, 
	study_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (study_user_attribute_id), 
	UNIQUE (study_id, "key"), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "study_user_attributes" VALUES(1,1,'job','"qa"');
INSERT INTO "study_user_attributes" VALUES(2,1,'data','"sample"');
INSERT INTO "study_user_attributes" VALUES(3,1,'data_in_project','null');
INSERT INTO "study_user_attributes" VALUES(4,1,'data_fingerprint','"63421f64f10d2eaf5e0725578788d89a56f16ec0892de2676263f3fc0490da01"');
INSERT INTO "study_user_attributes" VALUES(5,1,'objective','"exact_match"');
INSERT INTO "study_user_attributes" VALUES(6,1,'metrics','["exact_match", "f1", "eval_loss", "train_loss"]');
INSERT INTO "study_user_attributes" VALUES(7,1,'search_space','{"name": "qa_tiny", "job": "qa", "data": "sample", "objective": "exact_match", "parameters": {"backbone": "scratch:1x32x2", "learning_rate": {"values": [0.001, 0.002]}, "num_train_epochs": 1, "per_device_train_batch_size": 2, "max_length": 64, "doc_stride": 16}, "search": {"sampler": "grid", "trials": 3, "seed": 42, "enqueue": [{"learning_rate": 0.003, "bf16": true}]}, "budget": {"retries": 2, "preemptions": 20}, "keep": {"checkpoints": 3}}');
INSERT INTO "study_user_attributes" VALUES(8,1,'versions','{"python": "3.11.7", "sweeper": "0.1.0", "torch": "2.13.0+cpu", "transformers": "5.24.0", "ray": "2.60.0", "optuna": "5.0.0", "mlflow": "3.17.2"}');
INSERT INTO "study_user_attributes" VALUES(9,1,'ready','true');
INSERT INTO "study_user_attributes" VALUES(10,1,'driver','{"id": "160e0d29023041de89dc6fc7862c27ef", "host": "vm", "pid": 25029, "place": "4685dc8b-238d-4b21-947d-46b5f3264ebc pid:[4026531836]", "started": 1795971434.0, "seen": 1795971455.0, "ended": 1795971455.0}');
INSERT INTO "study_user_attributes" VALUES(11,1,'shown_as','"/tmp/fx/sweeps/qa_tiny@71b1764ffd54"');
INSERT INTO "study_user_attributes" VALUES(12,1,'run:0','"e253f1ed55214f02b67a2fcd6f954843"');
INSERT INTO "study_user_attributes" VALUES(13,1,'run:1','"73993465cf5445bc8ee8b1566b63a475"');
INSERT INTO "study_user_attributes" VALUES(14,1,'run:2','"a6a747c779ec4f59b53ab2e7d3914a71"');
CREATE TABLE trial_heartbeats (
	trial_heartbeat_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	heartbeat DATETIME NOT NULL, 
	PRIMARY KEY (trial_heartbeat_id), 
	UNIQUE (trial_id), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
CREATE TABLE trial_intermediate_values (
	trial_intermediate_value_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	step INTEGER NOT NULL, 
	intermediate_value FLOAT, 
	intermediate_value_type VARCHAR(7) NOT NULL, 
	PRIMARY KEY (trial_intermediate_value_id), 
	UNIQUE (trial_id, step), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_intermediate_values" VALUES(1,2,1,0.234375,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(2,1,1,9.1927083333333337034e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(3,3,1,7.2395833333333337034e-01,'FINITE');
CREATE TABLE trial_params (
	param_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	param_name VARCHAR(512), 
	param_value FLOAT, 
	distribution_json TEXT, 
	PRIMARY KEY (param_id), 
	UNIQUE (trial_id, param_name), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_params" VALUES(1,2,'learning_rate',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0.001, 0.002]}}');
INSERT INTO "trial_params" VALUES(2,3,'learning_rate',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0.001, 0.002]}}');
CREATE TABLE trial_system_attributes (
	trial_system_attribute_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (trial_system_attribute_id), 
	UNIQUE (trial_id, "key"), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_system_attributes" VALUES(1,1,'fixed_params','{}');
INSERT INTO "trial_system_attributes" VALUES(2,2,'fixed_params','{"learning_rate": 0.001}');
INSERT INTO "trial_system_attributes" VALUES(3,3,'fixed_params','{"learning_rate": 0.002}');
CREATE TABLE trial_user_attributes (
	trial_user_attribute_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (trial_user_attribute_id), 
	UNIQUE (trial_id, "key"), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_user_attributes" VALUES(1,1,'fixed','{"learning_rate": 0.003, "bf16": true}');
INSERT INTO "trial_user_attributes" VALUES(2,2,'fixed','{"backbone": "scratch:1x32x2", "learning_rate": 0.001, "num_train_epochs": 1, "per_device_train_batch_size": 2, "max_length": 64, "doc_stride": 16}');
INSERT INTO "trial_user_attributes" VALUES(3,3,'fixed','{"backbone": "scratch:1x32x2", "learning_rate": 0.002, "num_train_epochs": 1, "per_device_train_batch_size": 2, "max_length": 64, "doc_stride": 16}');
INSERT INTO "trial_user_attributes" VALUES(4,1,'key','"be55a51bf7b926bd"');
INSERT INTO "trial_user_attributes" VALUES(5,1,'params','{"backbone": "scratch:1x32x2", "seed": 42, "learning_rate": 0.003, "lr_scheduler_type": "linear", "warmup_ratio": 0.0, "warmup_steps": 0, "weight_decay": 0.0, "max_grad_norm": 1.0, "bf16": true, "train_sampling_strategy": "group_by_length", "num_train_epochs": 1, "eval_steps": 0, "effective_batch_size": 8, "per_device_train_batch_size": 2, "per_device_eval_batch_size": 32, "fsdp": false, "max_length": 64, "doc_stride": 16, "max_answer_length": 30, "unanswered_share": 1.0, "metric_profile": "strict"}');
INSERT INTO "trial_user_attributes" VALUES(6,2,'key','"dd370223d530ce92"');
INSERT INTO "trial_user_attributes" VALUES(7,2,'params','{"backbone": "scratch:1x32x2", "seed": 42, "learning_rate": 0.001, "lr_scheduler_type": "linear", "warmup_ratio": 0.0, "warmup_steps": 0, "weight_decay": 0.0, "max_grad_norm": 1.0, "bf16": false, "train_sampling_strategy": "group_by_length", "num_train_epochs": 1, "eval_steps": 0, "effective_batch_size": 8, "per_device_train_batch_size": 2, "per_device_eval_batch_size": 32, "fsdp": false, "max_length": 64, "doc_stride": 16, "max_answer_length": 30, "unanswered_share": 1.0, "metric_profile": "strict"}');
INSERT INTO "trial_user_attributes" VALUES(8,2,'evaluation:0000001.000000','{"exact_match": 0.234375, "f1": 0.32117407829650874, "eval_loss": 1.3051040422438416, "train_loss": 1.6676681343166309, "epoch": 1.0, "step": 696.0, "seconds": 8.487495911998849, "checkpoint": "qa_tiny/trials/0001/checkpoint-000696", "timing": {"start": 4.685140795001644, "training": 4.996305640008359, "features": 0.12978881799790543, "evaluation": 0.08710045999760041, "checkpoints": 0.05331693199696019, "waiting": 1.4789646579956752}}');
INSERT INTO "trial_user_attributes" VALUES(9,3,'key','"aff2720060e9ad90"');
INSERT INTO "trial_user_attributes" VALUES(10,3,'params','{"backbone": "scratch:1x32x2", "seed": 42, "learning_rate": 0.002, "lr_scheduler_type": "linear", "warmup_ratio": 0.0, "warmup_steps": 0, "weight_decay": 0.0, "max_grad_norm": 1.0, "bf16": false, "train_sampling_strategy": "group_by_length", "num_train_epochs": 1, "eval_steps": 0, "effective_batch_size": 8, "per_device_train_batch_size": 2, "per_device_eval_batch_size": 32, "fsdp": false, "max_length": 64, "doc_stride": 16, "max_answer_length": 30, "unanswered_share": 1.0, "metric_profile": "strict"}');
INSERT INTO "trial_user_attributes" VALUES(11,1,'evaluation:0000001.000000','{"exact_match": 0.9192708333333334, "f1": 0.9484808596759823, "eval_loss": 0.4094799891530671, "train_loss": 1.0479485522741558, "epoch": 1.0, "step": 696.0, "seconds": 12.0406053839979, "checkpoint": "qa_tiny/trials/0000/checkpoint-000696", "timing": {"start": 4.685743321999325, "training": 8.492615595991083, "features": 0.1775682709994726, "evaluation": 0.12968476400419604, "checkpoints": 0.047207520008669235, "waiting": 1.4657725220022257}}');
INSERT INTO "trial_user_attributes" VALUES(12,3,'evaluation:0000001.000000','{"exact_match": 0.7239583333333334, "f1": 0.788656181442653, "eval_loss": 0.813185360857522, "train_loss": 1.3282379501167385, "epoch": 1.0, "step": 696.0, "seconds": 5.148859183995228, "checkpoint": "qa_tiny/trials/0002/checkpoint-000696", "timing": {"start": 0.21218533099454362, "training": 4.8510889429962845, "features": 0.009457566004130058, "evaluation": 0.07679953600018052, "checkpoints": 0.005354176006221678, "waiting": 0.02627624000160722}}');
CREATE TABLE trial_values (
	trial_value_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	objective INTEGER NOT NULL, 
	value FLOAT, 
	value_type VARCHAR(7) NOT NULL, 
	PRIMARY KEY (trial_value_id), 
	UNIQUE (trial_id, objective), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_values" VALUES(1,2,0,0.234375,'FINITE');
INSERT INTO "trial_values" VALUES(2,1,0,9.1927083333333337034e-01,'FINITE');
INSERT INTO "trial_values" VALUES(3,3,0,7.2395833333333337034e-01,'FINITE');
CREATE TABLE trials (
	trial_id INTEGER NOT NULL, 
	number INTEGER, 
	study_id INTEGER, 
	state VARCHAR(8) NOT NULL, 
	datetime_start DATETIME, 
	datetime_complete DATETIME, 
	PRIMARY KEY (trial_id), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "trials" VALUES(1,0,1,'COMPLETE','2026-11-29 16:57:17.168726','2026-11-29 16:57:32.208921');
INSERT INTO "trials" VALUES(2,1,1,'COMPLETE','2026-11-29 16:57:17.199547','2026-11-29 16:57:28.687782');
INSERT INTO "trials" VALUES(3,2,1,'COMPLETE','2026-11-29 16:57:28.705039','2026-11-29 16:57:33.931456');
CREATE TABLE version_info (
	version_info_id INTEGER NOT NULL, 
	schema_version INTEGER, 
	library_version VARCHAR(256), 
	PRIMARY KEY (version_info_id), 
	CHECK (version_info_id=1)
);
INSERT INTO "version_info" VALUES(1,12,'5.0.0');
CREATE UNIQUE INDEX ix_studies_study_name ON studies (study_name);
CREATE INDEX ix_trials_study_id ON trials (study_id);
COMMIT;
