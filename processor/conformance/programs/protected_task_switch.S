# A jump to a task-state segment is refused with an exception, not carried out and not a crash.
# mode: protected
# needs: task switches
# expect: 0x0e00000d 0x50 0x11
.include "protected.inc"
main:
    movl $0x00000067, 0x550
    movl $0x00008902, 0x554
    catch 1f
    ljmp $0x50, $0
1:  report $0x11
    finish
