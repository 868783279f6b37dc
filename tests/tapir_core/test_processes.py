from tapir_core.processes import Holder


def test_this_process_is_not_gone_and_its_successor_is_another():
    me = Holder.this_process()
    assert not me.is_gone()
    assert Holder(me.host, me.boot_id, me.pid, me.process_started + 1).is_gone()
