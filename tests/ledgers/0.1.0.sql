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
INSERT INTO "studies" VALUES(1,'toy');
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
INSERT INTO "study_user_attributes" VALUES(1,1,'job','"tests.toy:JOB"');
INSERT INTO "study_user_attributes" VALUES(2,1,'data','"sample"');
INSERT INTO "study_user_attributes" VALUES(3,1,'data_fingerprint','"44fb7cb821b86f457b968492c8f84da722fe19c2dfbca671e243a491664b3e1b"');
INSERT INTO "study_user_attributes" VALUES(4,1,'objective','"height"');
INSERT INTO "study_user_attributes" VALUES(5,1,'metrics','["height", "eval_loss"]');
INSERT INTO "study_user_attributes" VALUES(6,1,'search_space','{"name": "toy", "job": "tests.toy:JOB", "data": "sample", "objective": "height", "parameters": {"backbone": {"values": ["hill", "valley"]}, "learning_rate": {"min": 1e-05, "max": 0.1, "log": true}, "num_train_epochs": 4}, "search": {"sampler": "tpe", "trials": 5, "seed": 1, "enqueue": []}, "repeats": {"top": 1, "seeds": [43]}, "keep": {"checkpoints": 3}}');
INSERT INTO "study_user_attributes" VALUES(7,1,'versions','{"python": "3.11.7", "sweeper": "0.1.0", "torch": "2.13.0+cpu", "transformers": "5.23.0", "ray": "2.60.0", "optuna": "5.0.0", "mlflow": "3.17.2"}');
INSERT INTO "study_user_attributes" VALUES(8,1,'ready','true');
INSERT INTO "study_user_attributes" VALUES(9,1,'run:0','"run-0"');
INSERT INTO "study_user_attributes" VALUES(10,1,'test:0','0.25');
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
INSERT INTO "trial_intermediate_values" VALUES(1,1,1,0.1,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(2,1,2,0.2,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(3,1,3,0.3,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(4,1,4,0.4,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(5,2,1,0.2,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(6,2,2,0.3,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(7,3,1,0.3,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(8,4,1,0.4,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(9,4,2,0.5,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(10,5,1,0.35,'FINITE');
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
INSERT INTO "trial_params" VALUES(1,1,'backbone',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["hill", "valley"]}}');
INSERT INTO "trial_params" VALUES(2,1,'learning_rate',1.07810632344740117433e-05,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 1e-05, "high": 0.1, "log": true}}');
INSERT INTO "trial_params" VALUES(3,2,'backbone',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["hill", "valley"]}}');
INSERT INTO "trial_params" VALUES(4,2,'learning_rate',3.80705904662944092991e-05,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 1e-05, "high": 0.1, "log": true}}');
INSERT INTO "trial_params" VALUES(5,3,'backbone',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["hill", "valley"]}}');
INSERT INTO "trial_params" VALUES(6,3,'learning_rate',9.26243738811028533008e-02,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 1e-05, "high": 0.1, "log": true}}');
INSERT INTO "trial_params" VALUES(7,4,'backbone',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["hill", "valley"]}}');
INSERT INTO "trial_params" VALUES(8,4,'learning_rate',8.37632146596130160165e-03,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 1e-05, "high": 0.1, "log": true}}');
CREATE TABLE trial_system_attributes (
	trial_system_attribute_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (trial_system_attribute_id), 
	UNIQUE (trial_id, "key"), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
CREATE TABLE trial_user_attributes (
	trial_user_attribute_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (trial_user_attribute_id), 
	UNIQUE (trial_id, "key"), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_user_attributes" VALUES(1,1,'key','"d1622137c0447646"');
INSERT INTO "trial_user_attributes" VALUES(2,1,'params','{"backbone": "hill", "seed": 42, "learning_rate": 1.0781063234474012e-05, "warmup_ratio": 0.0, "num_train_epochs": 4, "trouble": "none", "folder": "."}');
INSERT INTO "trial_user_attributes" VALUES(3,1,'evaluation:0000001.000000','{"height": 0.1, "eval_loss": 0.9, "epoch": 1.0, "seconds": 2.0, "checkpoint": "sweeps/toy/trials/0000/checkpoint-000001"}');
INSERT INTO "trial_user_attributes" VALUES(4,1,'evaluation:0000002.000000','{"height": 0.2, "eval_loss": 0.8, "epoch": 2.0, "seconds": 4.0, "checkpoint": "sweeps/toy/trials/0000/checkpoint-000002"}');
INSERT INTO "trial_user_attributes" VALUES(5,1,'evaluation:0000003.000000','{"height": 0.3, "eval_loss": 0.7, "epoch": 3.0, "seconds": 6.0, "checkpoint": "sweeps/toy/trials/0000/checkpoint-000003"}');
INSERT INTO "trial_user_attributes" VALUES(6,1,'evaluation:0000004.000000','{"height": 0.4, "eval_loss": 0.6, "epoch": 4.0, "seconds": 8.0, "checkpoint": "sweeps/toy/trials/0000/checkpoint-000004"}');
INSERT INTO "trial_user_attributes" VALUES(7,2,'key','"9f2a31e2eaf2310b"');
INSERT INTO "trial_user_attributes" VALUES(8,2,'params','{"backbone": "hill", "seed": 42, "learning_rate": 3.807059046629441e-05, "warmup_ratio": 0.0, "num_train_epochs": 4, "trouble": "none", "folder": "."}');
INSERT INTO "trial_user_attributes" VALUES(9,2,'evaluation:0000001.000000','{"height": 0.2, "eval_loss": 0.8, "epoch": 1.0, "seconds": 2.0, "checkpoint": "sweeps/toy/trials/0001/checkpoint-000001"}');
INSERT INTO "trial_user_attributes" VALUES(10,2,'evaluation:0000002.000000','{"height": 0.3, "eval_loss": 0.7, "epoch": 2.0, "seconds": 4.0, "checkpoint": "sweeps/toy/trials/0001/checkpoint-000002"}');
INSERT INTO "trial_user_attributes" VALUES(11,2,'reason','"stopped early after epoch 2"');
INSERT INTO "trial_user_attributes" VALUES(12,3,'key','"5ae0fb0835e878dd"');
INSERT INTO "trial_user_attributes" VALUES(13,3,'params','{"backbone": "valley", "seed": 42, "learning_rate": 0.09262437388110285, "warmup_ratio": 0.0, "num_train_epochs": 4, "trouble": "none", "folder": "."}');
INSERT INTO "trial_user_attributes" VALUES(14,3,'evaluation:0000001.000000','{"height": 0.3, "eval_loss": 0.7, "epoch": 1.0, "seconds": 2.0, "checkpoint": "sweeps/toy/trials/0002/checkpoint-000001"}');
INSERT INTO "trial_user_attributes" VALUES(15,3,'reason','"Diverged: height is nan at epoch 2"');
INSERT INTO "trial_user_attributes" VALUES(16,4,'key','"2d3a8dfbae32b4ff"');
INSERT INTO "trial_user_attributes" VALUES(17,4,'params','{"backbone": "hill", "seed": 42, "learning_rate": 0.008376321465961302, "warmup_ratio": 0.0, "num_train_epochs": 4, "trouble": "none", "folder": "."}');
INSERT INTO "trial_user_attributes" VALUES(18,4,'evaluation:0000001.000000','{"height": 0.4, "eval_loss": 0.6, "epoch": 1.0, "seconds": 2.0, "checkpoint": "sweeps/toy/trials/0003/checkpoint-000001"}');
INSERT INTO "trial_user_attributes" VALUES(19,4,'evaluation:0000002.000000','{"height": 0.5, "eval_loss": 0.5, "epoch": 2.0, "seconds": 4.0, "checkpoint": "sweeps/toy/trials/0003/checkpoint-000002"}');
INSERT INTO "trial_user_attributes" VALUES(20,5,'repeat_of','0');
INSERT INTO "trial_user_attributes" VALUES(21,5,'key','"51df437e7ddba9e4"');
INSERT INTO "trial_user_attributes" VALUES(22,5,'params','{"backbone": "hill", "seed": 43, "learning_rate": 1.0781063234474012e-05, "warmup_ratio": 0.0, "num_train_epochs": 4, "trouble": "none", "folder": "."}');
INSERT INTO "trial_user_attributes" VALUES(23,5,'evaluation:0000001.000000','{"height": 0.35, "eval_loss": 0.65, "epoch": 1.0, "seconds": 2.0, "checkpoint": null}');
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
INSERT INTO "trial_values" VALUES(1,1,0,0.4,'FINITE');
INSERT INTO "trial_values" VALUES(2,2,0,0.3,'FINITE');
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
INSERT INTO "trials" VALUES(1,0,1,'COMPLETE','2026-11-24 13:59:14.918005','2026-11-24 13:59:15.235188');
INSERT INTO "trials" VALUES(2,1,1,'PRUNED','2026-11-24 13:59:15.272594','2026-11-24 13:59:15.564478');
INSERT INTO "trials" VALUES(3,2,1,'FAIL','2026-11-24 13:59:15.605819','2026-11-24 13:59:15.768019');
INSERT INTO "trials" VALUES(4,3,1,'RUNNING','2026-11-24 13:59:15.806406',NULL);
INSERT INTO "trials" VALUES(5,4,1,'RUNNING','2026-11-24 13:59:16.000328',NULL);
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
