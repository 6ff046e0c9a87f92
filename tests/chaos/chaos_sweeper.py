"""A second sweeper on the node's ledger, in a process of its own."""

import signal
import sys
from pathlib import Path

from dicom_node.ledger import Ledger
from dicom_node.logs import set_up_logging
from dicom_node.queue.dispatch import Dispatcher, make_app
from dicom_node.queue.sweeper import Sweeper
from dicom_node.settings import Settings

if __name__ == "__main__":
    settings = Settings.load(Path(sys.argv[1]))
    set_up_logging(settings.log)
    ledger = Ledger.open(settings)
    sweeper = Sweeper(settings, ledger, Dispatcher(settings, ledger, make_app(settings)))
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    sweeper.start()
    signal.sigwait({signal.SIGTERM})
    sweeper.stop()
    ledger.close()
