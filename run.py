"""Train and test a model from a source checkout: ``python run.py task=sst2 retention.rho=0.3``."""

from retention.experiment.entry import main

if __name__ == "__main__":
    main()
