# INT3, INT n, INTO's absence, and the return through IRETQ.
# mode: long
# needs: INT3 and INT n at privilege level 0
# expect: 0x0e000003 0x0 0x0e000040 0x0 0x0e000006 0x0 0x11
.include "long.inc"
main:
    catch 1f
    int3
1:  catch 2f
    int $0x40
2:  catch 3f
    .byte 0xce
3:  report $0x11
    finish
