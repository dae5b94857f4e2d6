# Exceptions with and without error codes at privilege level 0, 64-bit.
# mode: long
# expect: 0x0e000000 0x0 0x0e000006 0x0 0x0e00000d 0x0 0x0e00000e 0x0 0x40000000 0x0e00000d 0x50 0x99
.include "long.inc"
main:
    catch 1f
    xorl %edx, %edx
    xorl %ecx, %ecx
    movl $1, %eax
    divl %ecx
1:  catch 2f
    ud2
2:  # Not canonical.
    catch 3f
    movq $0x0000800000000000, %rax
    movb (%rax), %al
3:  # Not present.
    catch 4f
    movb 0x40000000, %al
4:  # A selector beyond the table... inside it, but not a segment.
    catch 5f
    movw $0x50, %ax
    movw %ax, %es
5:  report $0x99
    finish
