# Limits, null selectors, not-present and wrong-type loads in protected mode, each with its error code.
# mode: protected
# expect: 0x0e00000d 0x0 0x0e00000d 0x0 0x0e00000d 0x58 0x0e00000b 0x60 0x0e00000d 0x8 0x11
.include "protected.inc"
main:
    # A byte beyond the limit of a small data segment.
    movl $0x0000000f, 0x558
    movl $0x00409300, 0x55c
    lgdt big
    movw $0x58, %ax
    movw %ax, %es
    movb %es:0xf, %al
    catch 1f
    movb %es:0x10, %al
1:  # A null selector may be loaded, but not used.
    xorw %ax, %ax
    movw %ax, %fs
    catch 2f
    movb %fs:0, %al
2:  # A data segment as code.
    catch 3f
    ljmp $0x58, $3f
3:  # Not present.
    movl $0x0000ffff, 0x560
    movl $0x00cf1300, 0x564
    catch 4f
    movw $0x60, %ax
    movw %ax, %gs
4:  # A code segment as stack.
    catch 5f
    movw $0x8, %ax
    movw %ax, %ss
5:  report $0x11
    finish
big:
    .word 0x67
    .long 0x500
