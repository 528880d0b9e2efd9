# The default models, from nothing: hours on two cores. A stopped run goes on when `make models` is given again.
# Each stamp out/NAME.done stands for one finished, evaluated checkpoint out/NAME.

pretrained := ocr_models/pretrained
data := data/train/dataset.json data/val/dataset.json data/test/dataset.json
labelled := --data data/train --val data/val
# Metrics go into the manifest before the next stage names it as its parent.
evaluated = $(python) slim/evaluate.py $(basename $@) --data data/test --record && touch $@

.PHONY: models
models: out/det.done out/cls.done out/rec.done out/det-pruned.done out/det-slim.done out/cls-slim.done out/rec-slim.done
	$(python) benchmarks/ship.py --models out --out $(pretrained)

data/fonts/fetched: configs/fonts_train.yaml | env
	$(python) slim/fetch_fonts.py && touch $@

data/%/dataset.json: configs/synth_%.yaml | env data/fonts/fetched
	$(python) slim/synthesize.py --recipe $< --out data/$*

out/det.done: | $(data)
	$(python) slim/finetune.py --model det_mv3_db $(labelled) --out out/det
	$(evaluated)
out/cls.done: | $(data)
	$(python) slim/finetune.py --model cls_mv3 $(labelled) --out out/cls
	$(evaluated)
out/rec.done: | $(data)
	$(python) slim/finetune.py --model rec_mv3_crnn_en $(labelled) --out out/rec
	$(evaluated)
out/det-pruned.done: out/det.done
	$(python) slim/sensitivity.py out/det --data data/val --out out/sensitivity/det
	$(python) slim/prune.py out/det $(labelled) --out out/det-pruned --sensitivity out/sensitivity/det --flops-ratio 0.62 --max-ratio 0.5
	$(evaluated)
out/det-slim.done: out/det-pruned.done
	$(python) slim/quantize.py out/det-pruned $(labelled) --out out/det-slim
	$(evaluated)
out/%-slim.done: out/%.done
	$(python) slim/quantize.py out/$* $(labelled) --out out/$*-slim
	$(evaluated)
